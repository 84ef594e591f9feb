"""How a verb ends: its exit status, and what stands on stderr."""

import pytest

from data.errors import InputError, LeakageError
from study.command_line import Parser, run_verb


def ending(result):
    """A verb that returns this, or raises it."""

    def main():
        if isinstance(result, BaseException):
            raise result
        return result

    return main


@pytest.mark.parametrize(
    ("result", "status", "said"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (130, 130, ""),
        (InputError("--folds 1: expected 2 to 50"), 2, "error: --folds 1: expected 2 to 50\n"),
        (LeakageError("patient 7 on both sides"), 2, "error: patient 7 on both sides\n"),
        (
            PermissionError(13, "Permission denied", "/x"),
            2,
            "error: /x: Permission denied; make it readable and writable, or name another place\n",
        ),
        (
            OSError(28, "No space left on device"),
            2,
            "error: results: No space left on device; free some space where --output stands, then run it again, a search with --resume\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_the_exit_status_says_how_it_ended(capsys, result, status, said):
    with pytest.raises(SystemExit) as end:
        run_verb(ending(result))
    assert (end.value.code, capsys.readouterr().err) == (status, said)


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), OSError("no file of the user's")])
def test_a_mistake_of_ours_is_not_passed_off_as_the_users(error):
    with pytest.raises(type(error)):
        run_verb(ending(error))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--number", "many"], "error: argument --number: invalid int value: 'many'; verb.py --help says what is expected\n"),
        (["--name", ""], "error: --name is empty: expected a value; leave it out for the default; verb.py --help says what is expected\n"),
    ],
)
def test_an_argument_that_cannot_be_read_is_one_line(capsys, words, said):
    parser = Parser(prog="verb.py")
    parser.add_argument("--number", type=int)
    parser.add_argument("--name")
    with pytest.raises(SystemExit) as end:
        parser.parse_args(words)
    assert (end.value.code, capsys.readouterr().err) == (2, said)

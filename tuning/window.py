"""What the sampler sees of a study: resting trials as pruned ones, and of a long study so many that a suggestion costs the same."""

import copy
from collections.abc import Container, Sequence

from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

BEST = 25  # TPE's good density holds ceil(n / 10) trials, 25 at most (`optuna.samplers._tpe.sampler.default_gamma`)
LATEST = 25  # those that TPE gives full weight (`default_weights`)
SPREAD = 200  # 250 in all: from n = 241 on the good density does hold 25


class WindowStorage(InMemoryStorage):
    """A study in memory whose listing gives its best trials, its latest, and some of the others, evenly spaced.

    TPE (Bergstra et al., NeurIPS 2011) divides trials into the few best and all others, and draws where the density of
    the best is large against that of the others; the work grows with the others. The best stay the same 25 as without a
    window; the density of the others is estimated from every n-th of them. Evenly spaced and not only the latest, because
    the latest are nearly as good as the best: against those alone TPE no longer knows what is bad.
    Up to BEST + LATEST + SPREAD trials nothing changes.

    A trial that rests at a rung may go on, so for Optuna it still runs. It is shown as PRUNED: TPE then ranks it below those that
    came further, by its last score, where a running trial only keeps others away from its place.
    """

    def __init__(self, earlier: Sequence[FrozenTrial] = ()) -> None:
        """`earlier`: trials of another study that the sampler sees too; nobody else does."""
        super().__init__()
        self.earlier = earlier
        self._old: list[int] = []  # numbers of the trials before the latest that are among the best, or still run
        self._passed = 0  # so many trials came before the latest
        self._resting: dict[int, FrozenTrial] = {}  # by number, as they are shown
        self._distributions: dict[str, BaseDistribution] = {}  # by parameter

    def set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution) -> None:
        """Trials share what a parameter is drawn from; a copy each would be most of what a study takes in memory."""
        shared = self._distributions.setdefault(param_name, distribution)
        super().set_trial_param(trial_id, param_name, param_value_internal, shared if shared == distribution else distribution)

    def rest(self, study_id: int, number: int) -> None:
        """Show a running trial as PRUNED, until it goes on."""
        shown = copy.copy(self._studies[study_id].trials[number])
        shown.state = TrialState.PRUNED
        self._resting[number] = shown

    def go_on(self, number: int) -> None:
        """Show it as running again."""
        del self._resting[number]
        if number < self._passed and number not in self._old:
            self._old.append(number)

    def whole(self, study_id: int) -> list[FrozenTrial]:
        """All trials by number as they are shown, not copied."""
        return self._shown(self._studies[study_id].trials)

    def _shown(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        return [self._resting.get(trial.number, trial) for trial in trials]

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        if states == (TrialState.WAITING,):  # what is asked next
            return super().get_all_trials(study_id, deepcopy, states)
        trials = self._studies[study_id].trials  # `whole` copies the list, a millisecond a suggestion at 5,000
        if len(trials) > BEST + LATEST + SPREAD:
            first = len(trials) - LATEST
            old = self._shown([trials[number] for number in (*self._old, *range(self._passed, first))])
            minimize = self.get_study_directions(study_id)[0] == StudyDirection.MINIMIZE
            kept = best_of([trial for trial in old if trial.state.is_finished()], minimize)
            kept += [trial for trial in old if not trial.state.is_finished()]
            self._old, self._passed = sorted(trial.number for trial in kept), first
            spread = (first * place // SPREAD for place in range(SPREAD))
            trials = [*(trials[number] for number in sorted({*self._old, *spread})), *trials[first:]]
        return [trial for trial in (*self.earlier, *self._shown(trials)) if states is None or trial.state in states]


def best_of(trials: list[FrozenTrial], minimize: bool) -> list[FrozenTrial]:
    """The `BEST` best as TPE ranks them: complete ones by value, then pruned ones by how far they came and their last value."""
    sign = 1 if minimize else -1

    def rank(trial: FrozenTrial) -> tuple[int, int, float]:
        if trial.state == TrialState.COMPLETE:
            assert trial.value is not None
            return 0, 0, sign * trial.value
        step, value = max(trial.intermediate_values.items(), default=(0, 0.0))
        return 1, -step, sign * value

    return sorted((trial for trial in trials if trial.state != TrialState.FAIL), key=rank)[:BEST]

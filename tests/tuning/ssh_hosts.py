"""Machines on this machine: each with its own network address, processes, home, temporary folder and sshd.

A machine is a process in Linux namespaces of its own. The kernel ends all that runs on it together with that process, which ends
when its standard input closes: nothing is left behind, whatever happens within, also when the tests themselves are killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.test_imports import ROOT

SEPARATE = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
NEEDED = ("unshare", "nsenter", "ip", "sshd", "ssh", "ssh-keygen", "rsync", "ps")
NETWORK = "10.77.0"
HOME = "/run/home"  # of root on every machine: not its home here, below which Python itself may stand
CABLE = "ip link set lo up; ip link add cable type bridge; ip link set cable up; echo ready; read -r until_the_end"
MACHINE = """
set -e
hostname {name}
mount -t tmpfs tmpfs /run
mkdir /run/sshd /run/machine /run/shared {home}
mount --bind {shared} /run/shared
mount --bind {folder}/etc /run/machine
mount --bind {folder}/home {home}
sed 's|^\\(root:.*\\):[^:]*:|\\1:{home}:|' /etc/passwd >/run/machine/passwd
mount --bind /run/machine/passwd /etc/passwd
mount --bind /run/shared/hosts /etc/hosts
{shown}
mount --rbind {folder}/tmp /tmp
mount -t tmpfs -o size=512m tmpfs /dev/shm
echo ready
read -r plugged
ip link set lo up
ip addr add {address}/24 dev eth0
ip link set eth0 up
ip route add default via {address}
{sshd} -D -e -f /run/machine/sshd_config 2>/run/machine/sshd.log </dev/null >/dev/null &
until grep -qs listening /run/machine/sshd.log; do kill -0 $!; sleep 0.05; done
echo ready
read -r until_the_end
"""
SSHD = """
HostKey /run/machine/host_key
AuthorizedKeysFile /run/machine/key.pub
ListenAddress {address}:22
PidFile none
UsePAM no
PasswordAuthentication no
StrictModes no
PrintMotd no
"""



def missing() -> str:
    """Why there can be no such machines here; "" when there can."""
    absent = [tool for tool in NEEDED if _found(tool) is None]
    if absent:
        return f"needs {', '.join(absent)} (on Debian: apt-get install openssh-server openssh-client rsync iproute2 procps)"
    if os.geteuid() != 0 or subprocess.run([*SEPARATE, "ip", "link", "add", "cable", "type", "bridge"], capture_output=True).returncode:
        return "needs root and the right to make network namespaces"
    return ""


@dataclass(frozen=True)
class Machine:
    name: str
    address: str
    folder: Path  # seen from outside: home/ and tmp/ are the machine's own
    process: int  # the first process of the machine, seen from outside

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def run(self, command: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """A shell command on the machine, as root, in an environment that knows nothing of this one; its output as one text."""
        words = ["nsenter", "--target", str(self.process), "--net", "--mount", "--pid", "--uts", "bash", "-c", command]
        environment = {"PATH": os.environ["PATH"], "HOME": HOME, "USER": "root", "LANG": "C.UTF-8"}
        return subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=timeout)  # fmt: skip

    def processes(self, name: str) -> list[str]:
        """Command lines on it that contain a name."""
        return [line for line in self.run("ps -ww -eo args=", 30).stdout.splitlines() if name in line]


@contextmanager
def machines(folder: Path, *names: str) -> Iterator[list[Machine]]:
    """Machines that reach each other and share `/run/shared` (`folder/shared`); `/run/machine/key` of each opens all.

    They end with the block.
    """
    (folder / "shared").mkdir(parents=True)
    addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, start=1)}
    (folder / "shared" / "hosts").write_text("".join(f"{address} {name}\n" for name, address in addresses.items()))
    _new_key(folder / "key")
    with ExitStack() as ending:
        cable = _begin(ending, CABLE)
        _ready(cable)
        yield [_machine(ending, _inside(cable), folder, name, address) for name, address in addresses.items()]


def _machine(ending: ExitStack, cable: int, together: Path, name: str, address: str) -> Machine:
    folder = together / name
    for part in ("home", "tmp", "etc"):
        (folder / part).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    for file in ("key", "key.pub"):
        shutil.copy2(together / file, folder / "etc" / file)
    _new_key(folder / "etc" / "host_key")
    (folder / "etc" / "sshd_config").write_text(SSHD.format(address=address))
    shown = "\n".join(f"mkdir -p {folder}{path} && mount --rbind {path} {folder}{path}" for path in _below_tmp())
    places = {"folder": folder, "shared": together / "shared", "home": HOME, "sshd": _found("sshd"), "shown": shown}
    process = _begin(ending, MACHINE.format(name=name, address=address, **places))
    _ready(process)
    plug = f"ip link add {name} type veth peer name eth0 netns {_inside(process)} && ip link set {name} master cable up"
    subprocess.run(["nsenter", "--target", str(cable), "--net", "sh", "-c", plug], check=True)
    assert process.stdin is not None
    process.stdin.write("plugged\n")
    process.stdin.flush()
    _ready(process)
    return Machine(name, address, folder, _inside(process))


def _below_tmp() -> list[Path]:
    """Where the project and its Python lie, if that is below /tmp, of which every machine has its own."""
    return [path for path in {ROOT, Path(sys.prefix), Path(sys.base_prefix)} if path.is_relative_to("/tmp")]  # noqa: S108


def _begin(ending: ExitStack, script: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([*SEPARATE, "bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end() -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)

    ending.callback(end)
    return process


def _ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("a machine did not start; its sshd.log may say why")


def _inside(process: subprocess.Popen[str]) -> int:
    """The child of `unshare`: the first process in the new namespaces."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def _new_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def _found(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")

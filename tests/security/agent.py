"""An agent that looks for what it must not find: `python -m tests.security.agent FOLDER UID` prints what it saw.

It runs the real CLI in the real sandbox and looks with the CLI's own Bash, Read and Grep. Started by root
it becomes UID first (0 stays root). Its interpreter may lie where that uid can't read, so one turn comes before.
"""

import asyncio
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from uuid import uuid4

from claude_agent_sdk import InMemorySessionStore

from claude_runner import (
    Answer,
    LaunchSpec,
    Pool,
    Question,
    RunnerSettings,
    ToolFinished,
    TurnEnd,
    Upstream,
    prove_tier,
)
from claude_runner.scripted_model import ScriptedModel
from claude_runner.seccomp import AUDIT_ARCH, REFUSED, WATCHED
from tests.purse import Purse
from tests.uids import become

CANARY = "canary-4f1d"
CREDENTIAL = f"{CANARY}-credential"
NEIGHBOUR = f"{CANARY}-neighbour"
ENVIRONMENT = f"{CANARY}-environment"
HOST_FILE = f"{CANARY}-host-file"
FOLDERS = "/home /config /workspace /tmp /run /etc /dev /var /opt /srv /root /mnt"


def _number(name: str) -> int:
    number = (REFUSED.get(name) or WATCHED[name])[list(AUDIT_ARCH).index(platform.machine())]
    assert number is not None
    return number


def calls(*names: str, arguments: str = "0, 0, 0, 0, 0") -> str:
    """A command that makes these system calls and prints each with the kernel's answer."""
    numbers = " ".join(f"{name} {_number(name)}" for name in names)
    program = f"my %n = qw({numbers}); for (sort keys %n) {{ $! = 0; my $r = syscall($n{{$_}}, {arguments}); "
    return f"perl -e '{program} printf qq(%s: %s;\\n), $_, $r < 0 ? $! : qq(done) }}'"


OUTLAWED = (
    *("io_uring_setup", "add_key", "keyctl", "request_key", "bpf", "ptrace", "process_vm_readv"),
    *("perf_event_open", "userfaultfd", "mount", "umount2", "fsopen", "move_mount", "open_tree", "setns"),
    *("pivot_root", "chroot", "kexec_load", "init_module", "name_to_handle_at", "kcmp", "memfd_secret"),
)
NEW_USER_NAMESPACE = "0x10000000, 0, 0, 0, 0"
TYPE_INTO_A_TERMINAL = "0, 0x5412, 0, 0, 0"

# Its memory, to change what it does; its input and output, to speak in its place.
OPEN_THE_CLI = r"""run perl -e '
my ($c) = grep { open(my $f, "<", "$_/comm"); <$f> eq "claude\n" } glob "/proc/[0-9]*";
for my $p ("/proc/1", $c) { for my $x (qw(mem fd/0 fd/1 fd/2 syscall environ)) {
my $o = open(my $f, $x =~ /sys|env/ ? "<" : "+<", "$p/$x") ? "OPEN" : $!;
print $p eq $c ? "cli" : "init", " $x: $o;\n" } }'"""

LOOKS = (
    OPEN_THE_CLI,
    "run env",
    "run for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ; tr '\\0' ' ' < $p/cmdline; echo; done",
    "run ls -la /proc/*/fd /proc/*/cwd /proc/*/root 2>&1",
    f"run grep -rsa {CANARY} {FOLDERS}; echo searched",
    "run ln -sf /proc/1/environ one; ln -sf /proc/self/environ self; ln -sf /etc/shadow shadow; echo linked",
    "read one",
    "read self",
    "read shadow",
    "read /proc/1/environ",
    "read /proc/self/environ",
    "read /etc/shadow",
    "read {host_file}",
    *(f"grep {CANARY} in {folder}" for folder in ("/workspace", "/home", "/etc", "/tmp", "/run")),
    "run cat /proc/net/dev | tail -n +3 | cut -d: -f1; echo; ls /sys/class/net 2>&1; true",
    "run for a in 127.0.0.1/22 169.254.169.254/80 10.0.0.1/80 1.1.1.1/443; do (exec 3<>/dev/tcp/$a); done; true",
    "run find / -path /proc -prune -o \\( -type s -o -type p \\) -print 2>/dev/null; ls -A / /workspace /home",
    "run ls /run /tmp /dev/shm /dev/mqueue 2>&1; ipcs -m | tail -n +4; cat /proc/sysvipc/shm | wc -l",
    "run (exec 3<>/dev/tcp/{service}); echo asked the service",
    "run getent hosts example.com || echo unresolved; cat /etc/resolv.conf 2>&1; true",
    "run for a in ::1/22 fe80::1/80 192.168.0.1/80 100.100.100.200/80; do (exec 3<>/dev/tcp/$a); done; true",
    "run python3 -c 1 2>/dev/null; ip address 2>&1 | head -3; cat /proc/net/tcp /proc/net/udp | wc -l",
    f"run {calls(*OUTLAWED)}",
    f"run {calls('unshare', 'clone', arguments=NEW_USER_NAMESPACE)}",
    f"run {calls('ioctl', arguments=TYPE_INTO_A_TERMINAL)}",
    f"run {calls('clone3')}",
    f"run for f in 17 38 40 29; do export f; echo $f; {calls('socket', arguments='$ENV{f} + 0, 3, 0')}; done",
    "run unshare -r true; unshare -m true; bwrap --bind / / true; nsenter -t 1 -a true; echo nested",
    "run cp /bin/sh s && chmod 6755 s && ./s -c 'id -u; grep -h -e NoNewPrivs -e Cap -e Seccomp /proc/self/status'",
    "run su -c 'id -u' 2>&1; sudo -n id -u 2>&1; mount -t tmpfs none /tmp 2>&1; echo tried",
    "run id; cat /etc/passwd; ps aux 2>/dev/null | wc -l; ls /proc | grep -c '^[0-9]'",
)


async def _allow(_question: Question) -> Answer:
    return Answer("allow")


def _host(folder: Path) -> tuple[RunnerSettings, Path]:
    """A host's folder, and a file beside it that anybody on the host may read."""
    folder.chmod(0o711)  # other uids pass through, as in operation
    host_file = folder / "host-secret"
    host_file.write_text(HOST_FILE)
    settings = RunnerSettings(folder / "s")
    settings.sandbox_dir.mkdir(mode=0o711)
    return settings, host_file


async def _look(folder: Path, looks: tuple[str, ...]) -> dict[str, object]:
    settings, host_file = _host(folder)
    proof = prove_tier(settings)
    pool = Pool(settings, proof.tier)
    seen: dict[str, str] = {}
    async with ScriptedModel() as model:
        account = Purse(Upstream("api_key", model.url, CREDENTIAL))
        ends = set()

        async def say(spec: LaunchSpec, text: str) -> str:
            outputs = []
            async for event in pool.turn(spec, account, InMemorySessionStore(), text, _allow):
                if isinstance(event, ToolFinished):
                    outputs.append(event.output)
                elif isinstance(event, TurnEnd):
                    ends.add(event.outcome)
            return "\n".join(outputs)

        neighbour = LaunchSpec(str(uuid4()), "tenant-b")
        await say(neighbour, f"write mine.txt: {NEIGHBOUR}")
        spec = LaunchSpec(str(uuid4()), "tenant-a", tools=("Bash", "Read", "Grep", "Write"))
        await say(spec, "write own.txt: its own file")
        service = model.url.removeprefix("http://").replace(":", "/")
        for look in looks:
            seen[look] = await say(
                spec, look.replace("{host_file}", str(host_file)).replace("{service}", service)
            )
        offered = {tool["name"] for tool in model.requests[-1].body["tools"]}
        sent = [request.headers.get("x-api-key") for request in model.requests if request.method == "POST"]
    await pool.stop_all()
    return {
        **{"uid": os.getuid(), "tier": proof.tier, "seen": seen, "ends": sorted(ends)},
        **{"offered": sorted(offered), "sent": sent},
    }


def main() -> None:
    uid = int(sys.argv[2])
    if uid != os.geteuid():
        with tempfile.TemporaryDirectory(prefix="p-", dir="/tmp") as folder:
            asyncio.run(_look(Path(folder), LOOKS[:1]))
    become(uid)
    sys.stdout.write(json.dumps(asyncio.run(_look(Path(sys.argv[1]), LOOKS))))


if __name__ == "__main__":
    main()

"""Run a command with the network off, and say whether it asked for one.

    python tools/offline.py [--may-ask] COMMAND ...

The command sees this machine alone (127.0.0.1), in a network namespace of its own. It ends with the command's own
code, or with 3 when that was 0 and something looked for another host: a page, a name, an update. Where the
system has no such namespaces, or does not let this user make one, the command runs as usual, and that is said.
`--may-ask` before the command makes asking no fault: a browser looks for the network on its own account.
"""
import os
import shutil
import socket
import struct
import subprocess
import sys

INSIDE, MAY_ASK = "--inside", "--may-ask"


def own_network() -> list[str]:
    "What to put before a command, so that it starts in a network of its own; empty where that cannot be had."
    if not shutil.which("unshare"):
        return []
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    start = ["unshare", *user, "--net", sys.executable, __file__, INSIDE]
    return [] if subprocess.run([*start, "true"], capture_output=True).returncode else start


def loopback_up() -> None:
    "A new namespace has 127.0.0.1, but it is down."
    import fcntl
    up, request = 0x1, 0x8914  # IFF_UP and SIOCSIFFLAGS of Linux
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, request, struct.pack("16sh14x", b"lo", up))


def asked() -> int:
    "How often something looked for a host that is not here; the kernel counts it for the whole namespace."
    with open("/proc/net/snmp") as lines:
        names, values = [line.split() for line in lines if line.startswith("Ip:")]
    count = int(dict(zip(names, values))["OutNoRoutes"])
    if os.path.exists("/proc/net/snmp6"):
        with open("/proc/net/snmp6") as lines:
            count += int(dict(line.split() for line in lines)["Ip6OutNoRoutes"])
    return count


def inside(command: list[str]) -> int:
    "What `run` does, in the new namespace."
    may_ask, command = command[0] == MAY_ASK, command[command[0] == MAY_ASK:]
    loopback_up()
    code = subprocess.call(command, env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"})  # for PyTorch's processes
    if not code and asked() and not may_ask:
        print(f"FAILED: {asked()} times something looked for another host")
        return 3
    return code


def run(command: list[str]) -> int:
    "The code with which `command` ended, with the network off where that can be done."
    start = own_network()
    print("    the network is off" if start else "    the network could not be switched off here", flush=True)
    return subprocess.call([*start, *command] if start else command[command[0] == MAY_ASK:])


if __name__ == "__main__":
    sys.exit(inside(sys.argv[2:]) if sys.argv[1] == INSIDE else run(sys.argv[1:]))

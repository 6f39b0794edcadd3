"""Which paths a command does not get, and the story of each: whoever answers there reaches the network from *its own*
cgroup, so bytes would leave that no hook of ours connects with the command.

Pure data. mounts.py applies it; the README lists it. In a pattern `~` is the command's home; `*` and `?` are globs;
symbolic links are followed. A matching directory becomes an empty read-only one, a matching socket an empty file of
mode 000, anything else stays as it is.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Masked:
    """One pattern and why nobody in a sandbox may reach it."""

    pattern: str
    story: str


@dataclass(frozen=True)
class Rebuilt:
    """A directory replaced by one that holds its subdirectories and files but none of its sockets, now or later.

    Masking the socket alone would not last: when its daemon restarts, the old socket is unlinked, the kernel drops the
    mount that covered it, and the new one lies open.
    """

    directory: str
    story: str


REBUILT = (
    Rebuilt("/run", "docker.sock, snapd.socket, podman, rpcbind: daemons that fetch for anyone in their group"),
    Rebuilt("/run/systemd", "systemd's private socket and io.systemd.*: start a unit in a cgroup of its own"),
    Rebuilt("/run/systemd/resolve", "resolved's varlink answers any name; resolv.conf must stay readable"),
    Rebuilt("/run/NetworkManager", "NetworkManager's private bus; its resolv.conf must stay readable"),
)

# What a symbolic link in a rebuilt directory points to is masked where it is, if it is a socket.
LINKS = tuple(Masked(f"{rule.directory}/*", rule.story) for rule in REBUILT)

# Replaced by an empty directory in which the command may make sockets of its own.
SCRATCH = (
    Masked("/run/user", "the user's bus and systemd start units; also podman, gnupg, pipewire, editors, Wayland"),
    Masked("/tmp/.X11-unix", "an X server lets every client type into the terminal next to it; Xvfb inside works"),
    Masked("/tmp/.ICE-unix", "the session manager starts programs outside"),
)

MASKED = (
    # They resolve names for anyone
    Masked("/run/nscd", "nscd resolves any name from its own cgroup; glibc asks it before it asks the gate"),
    Masked("/var/run/nscd", "the same where /var/run is no link to /run"),
    Masked("/var/db/nscd", "nscd's answers, mapped into every client"),
    Masked("/var/lib/sss/pipes", "sssd's nss and pam pipes: look-ups over LDAP and DNS"),
    Masked("/run/avahi-daemon", "avahi asks the local network over multicast DNS"),
    Masked("/var/run/avahi-daemon", "the same where /var/run is no link to /run"),
    # They start programs in another cgroup
    Masked("/run/dbus", "the system bus activates units, and carries resolve1, PackageKit, fwupd, NetworkManager"),
    Masked("/var/run/dbus", "the same where /var/run is no link to /run"),
    Masked("/run/systemd/machine", "machined opens shells in machines and on the host"),
    Masked("/tmp/dbus-*", "a session bus started by dbus-launch"),
    Masked("/tmp/tmux-*", "a tmux server outside runs what a client types: `tmux new-window 'curl ...'`"),
    Masked("/run/tmux", "the same, where a distribution keeps it there"),
    Masked("/run/screen", "screen -X does the same"),
    Masked("/tmp/screens", "the same, where a distribution keeps it there"),
    Masked("~/.screen", "the same, in the home directory"),
    Masked("/tmp/emacs*", "emacsclient --eval runs programs in the editor outside"),
    Masked("/tmp/vscode-*", "the editor's command server opens terminals and forwards ports"),
    Masked("/run/supervisor*", "supervisord starts programs"),
    # Container, machine and build daemons pull, push and start things
    Masked("/var/run/docker.sock", "the docker daemon starts containers with any network; where /var/run is no link"),
    Masked("/run/docker", "docker's libnetwork and containerd sockets"),
    Masked("~/.docker/run", "rootless docker and Docker Desktop"),
    Masked("~/.docker/desktop", "Docker Desktop"),
    Masked("/run/containerd", "containerd starts containers and pulls images"),
    Masked("/run/k3s", "k3s's containerd"),
    Masked("/run/crio", "CRI-O starts containers"),
    Masked("/run/podman", "podman's API service"),
    Masked("/run/buildkit", "buildkit fetches and runs build steps"),
    Masked("/run/libvirt", "libvirt starts machines with any network"),
    Masked("/run/lxd*", "LXD starts containers"),
    Masked("/var/lib/lxd/unix.socket", "the same"),
    Masked("/var/snap/lxd/common/lxd*/unix.socket", "the same, from a snap"),
    Masked("/var/lib/incus/unix.socket", "Incus starts containers"),
    Masked("/run/incus", "the same"),
    Masked("/nix/var/nix/daemon-socket", "the nix daemon downloads what a derivation names"),
    # They carry bytes for anyone
    Masked("/run/tailscale", "tailscaled dials for its local clients"),
    Masked("/run/wpa_supplicant", "wpa_supplicant sends frames"),
    Masked("/run/cups", "cupsd sends a job to any printer it knows, and answers IPP"),
    Masked("/var/spool/postfix/public", "a mail dropped here leaves by SMTP"),
    Masked("~/.gnupg/S.dirmngr", "dirmngr fetches keys over HTTP for its clients"),
    # Ours
    Masked("/run/exeat", "exeat's own API and the locks of its runs"),
)

# Only the sockets among the matches: what else lives next to them is needed.
MASKED_SOCKETS = (
    Masked("~/.ssh/*", "a control master's socket opens another session on a connection that is already up"),
    Masked("~/.ssh/*/*", "the same, one directory down"),
)

# File systems that are covered by an empty read-only directory wherever they are mounted.
HIDDEN_FILE_SYSTEMS = {
    "bpf": "pinned programs, links and maps: root's uid alone may open and change them",
    "tracefs": "kprobe events and the trace of other workloads",
    "debugfs": "knobs that change the kernel under the policy",
    "configfs": "nvmet and iSCSI targets: sockets that belong to the kernel and to no cgroup",
    "binfmt_misc": "an interpreter registered here runs in other people's processes",
    "nfsd": "kernel sockets again",
    "rpc_pipefs": "kernel sockets again",
    "proc": "/proc/PID/root of a process outside is a way around every mask; /proc itself is a new, private one",
}

# File systems that become read-only wherever they are mounted.
READ_ONLY_FILE_SYSTEMS = {
    "cgroup2": "a process that moves to another cgroup leaves its policy behind",
    "cgroup": "release_agent runs a program outside; net_cls moves sockets to the root cgroup before Linux 5.15",
    "sysfs": "uevent_helper names a program that the kernel starts in the root cgroup",
    "efivarfs": "outlives the machine's next start",
    "securityfs": "security policy",
    "selinuxfs": "security policy",
    "smackfs": "security policy",
}

# Read-only in the private /proc: root's uid alone may write there, no capability is asked.
READ_ONLY_PROC = {
    "/proc/sys": "kernel.core_pattern and kernel.modprobe name programs that the kernel starts in the root cgroup",
    "/proc/sysrq-trigger": "reboots the host",
    "/proc/irq": "steers the host's interrupts",
    "/proc/bus": "device registers",
    "/proc/fs": "file system and NFS knobs",
}

# All of /dev that a command with uid 0 gets: root's uid opens disks, and through them every file, without a capability.
ROOT_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue")

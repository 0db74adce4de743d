#!/usr/bin/python3
"""VMware's guest tools: Debian's own open-vm-tools, unmodified, in a VM that offers VMware's backdoor beside KVM's interfaces.

The guest's unit starts because systemd sees VMware, its kernel keeps kvmclock; what the tools tell is told by the control
socket, and what they are asked is done.
"""

import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import debian
from systems import seabios
from vmtest import BOOT_TIMEOUT, Daemon, Failed, Skip, Tap, check, program, scratch, wait_until

USERDATA = "#cloud-config\nhostname: from-guestinfo\n"


def starts(system):
    system.login()
    command = system.command
    check("vmware" == command("systemd-detect-virt").strip(), command("systemd-detect-virt"))
    out = command("dmesg | grep 'Hypervisor detected'; cat /sys/devices/system/clocksource/clocksource0/available_clocksource")
    check("detected: KVM" in out and "kvm-clock" in out, f"Linux has lost KVM's interfaces: {out}")
    out = command("systemctl is-active open-vm-tools; vmware-checkvm; echo status=$?", 120)
    check(out.startswith("active") and "status=0" in out, out)


def tells(system):
    system.command("ip link set dev enp0s2 up; ip addr add 10.0.2.15/24 dev enp0s2")
    control = system.vm.control()
    wait_until("open-vm-tools tell of the guest", lambda: control.result("guest_tools").get("hostname"), BOOT_TIMEOUT)
    # They look every thirty seconds.
    wait_until("they tell addresses", lambda: "10.0.2.15" in json.dumps(control.result("guest_tools")["interfaces"]), BOOT_TIMEOUT)
    tools = control.result("guest_tools")
    check(tools["present"] and tools["tools"] == "vmware" and tools["hostname"] == "disk" and tools["version"].startswith("12."), tools)
    check("debian" in tools["os_id"] and "Linux" in tools["os"] and tools["os_details"]["distroName"].startswith("Debian"), tools)
    nic = next(i for i in tools["interfaces"] if {"address": "10.0.2.15", "prefix": 24} in i["addresses"])
    mac = system.command("cat /sys/class/net/enp0s2/address").strip()
    check(nic["mac"].lower() == mac, (nic, mac))


def variables(system):
    control = system.vm.control()
    check(USERDATA.strip() in system.command("vmware-rpctool 'info-get guestinfo.userdata'"), "the definition's")
    control.result("guest_variable_set", {"name": "later", "value": "from the host"})
    check("from the host" in system.command("vmtoolsd --cmd 'info-get guestinfo.later'"), "one set meanwhile")
    # A program of nobody's, too: no I/O privilege is asked for. Longer than what goes by in one piece.
    text = system.command("v=$(seq 3000 | tr '\\n' .); setpriv --reuid 65534 --clear-groups vmware-rpctool \"info-set guestinfo.long $v\"; "
                          "vmware-rpctool 'info-get guestinfo.long' | md5sum; printf '%s\\n' $v | md5sum")
    sums = [line.split()[0] for line in text.splitlines() if line.endswith(" -")]
    check(len(sums) == 2 and sums[0] == sums[1], text)
    check(control.result("guest_variables")["long"].endswith("2999.3000."), "as the host sees it")
    control.result("guest_variable_set", {"name": "later", "value": None})
    check("No value found" in system.command("vmware-rpctool 'info-get guestinfo.later'"), "taken away")
    system.command("vmware-rpctool 'log a line from inside'")
    check("guest: a line from inside" in system.vm.log(), system.vm.log())


def clock(system):
    control = system.vm.control()
    system.command("date -s '2001-02-03 04:05:06'")
    control.result("guest_time_sync")
    wait_until("the clock is set", lambda: abs(int(system.command("date +%s")) - time.time()) < 30, 60, 0.5)
    # The same behind a pause, in which a guest's time stands still.
    system.command("date -s '2001-02-03 04:05:06'")
    control.result("pause")
    control.result("resume")
    wait_until("the clock is set", lambda: abs(int(system.command("date +%s")) - time.time()) < 30, 60, 0.5)
    check("Disabled" in system.command("vmware-toolbox-cmd timesync status"), "not asked for")
    check("Enabled" in system.command("vmware-toolbox-cmd timesync enable; vmware-toolbox-cmd timesync status"), "asked for in the guest")
    speed = int(system.command("vmware-toolbox-cmd stat speed").split()[0])
    check(speed > 100, speed)


def goes_down(system):
    control = system.vm.control()
    # Nobody there listens to the power button.
    system.command("mkdir -p /run/systemd/logind.conf.d; printf '[Login]\\nHandlePowerKey=ignore\\n' >/run/systemd/logind.conf.d/a.conf; "
                   "systemctl restart systemd-logind", 60)
    control.result("reboot")
    system.console.expect("SeaBIOS", BOOT_TIMEOUT)
    system.console.expect("disk login: ", BOOT_TIMEOUT * 2)
    wait_until("open-vm-tools answer again", lambda: control.result("guest_tools")["present"], BOOT_TIMEOUT)
    control.result("shutdown", {"by": "tools"})
    system.console.expect("Power down|Powering off|reboot: Power", BOOT_TIMEOUT)
    check(system.vm.wait(120) == 0, "exit status")
    check(system.vm.result()["state"] == "shutdown", system.vm.result()["reason"])


def daemon_passes_on(folder):
    os.mkdir(os.path.join(folder, "d"))
    with Daemon(os.path.join(folder, "d")) as daemon:
        rpc = daemon.rpc
        boot = {"firmware": seabios()}
        rpc.result("vm.run", {"definition": {"name": "t", "mode": "bt", "boot": boot, "tools": "vmware", "guestinfo": {"a": "b"}}})
        check(rpc.result("vm.guest.variables", {"vm": "t"}) == {"a": "b"}, "the definition's")
        rpc.result("vm.guest.set_variable", {"vm": "t", "name": "c", "value": "d"})
        rpc.result("vm.guest.set_variable", {"vm": "t", "name": "a", "value": None})
        check(rpc.result("vm.guest.variables", {"vm": "t"}) == {"c": "d"}, "set and taken away")
        check(rpc.call("vm.guest.set_variable", {"vm": "t", "name": "a b", "value": ""})["error"]["code"] == -32602, "a bad name")
        tools = rpc.result("vm.guest.tools", {"vm": "t"})
        check(tools == {"tools": "vmware", "present": False, "interfaces": []}, tools)
        why = rpc.call("vm.guest.sync_time", {"vm": "t"})["error"]["message"]
        check("no tools answer" in why, why)
        rpc.result("vm.destroy", {"vm": "t"})
        rpc.result("vm.run", {"definition": {"name": "u", "mode": "bt", "boot": boot}})
        why = rpc.call("vm.guest.variables", {"vm": "u"})["error"]["message"]
        check('"tools": "vmware"' in why, why)


def main():
    tap = Tap()
    try:
        program("trivisor-vm")
        with scratch() as folder:
            tap.run("the daemon passes it on", daemon_passes_on, folder)
        base = debian.image()
    except (Skip, Failed) as e:
        tap.skip("open-vm-tools", str(e))
        tap.finish()
    with scratch() as folder:
        system = debian.System(folder, base, "tools", more={"tools": "vmware", "guestinfo": {"userdata": USERDATA},
                                                            "nics": [{"type": "user"}]})
        with system.vm:
            if tap.run("systemd sees VMware and starts them, Linux keeps KVM's interfaces", starts, system):
                tap.run("variables both ways, of any program, and log lines", variables, system)
                tap.run("what they tell of the guest", tells, system)
                tap.run("the guest's clock follows the host's", clock, system)
                tap.run("reboot and shutdown by their means", goes_down, system)
    tap.finish()


if __name__ == "__main__":
    main()

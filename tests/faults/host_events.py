# SPDX-License-Identifier: MIT
"""What comes to a molt from outside in the middle of an update: commands, hang-ups, signals.

Each function has it come to an update that stands at a step (steps.Standing), lets it go, and looks what became of it.
"""
import os
import signal
import time

from walk import Lost


def quit(update):
    update.other.send("quit")
    update.let_go()
    if not update.early:
        update.finish()
    update.other.result()
    update.check_end(0, update.over, guest=False, reason="host-qmp-quit")


def stop_and_cont(update):
    update.other.send("stop")
    update.let_go()
    report = update.finish()
    update.other.result()
    if update.other.command("query-status")["status"] != "paused":
        raise Lost("the guest was stopped, and runs")
    if report and ("blackout-us" in report) == update.early:
        raise Lost("stopped before the update or after it: %s" % report)
    update.other.command("cont")
    update.check_events(*(["STOP"] + update.over if update.early else update.over + ["STOP"]), "RESUME")
    update.check_runs_on()


def second_update(update):
    """Refused where somebody reads it meanwhile, and made where that is only read when the first one is over."""
    update.other.send("update")
    update.let_go()
    update.finish()
    second = update.other.answer()
    if update.early and "busy" not in second.get("error", {}).get("desc", ""):
        raise Lost("not busy: %s" % second)
    if not update.early and second.get("return", {}).get("pid") != update.vm.pid:
        raise Lost("the second one was not made: %s" % second)
    update.check_events(*update.over, *([] if update.early else ["UPDATE_COMPLETED"]))
    update.check_runs_on()


def asker_hangs_up(update):
    update.asker.close()
    update.let_go()
    end = "UPDATE_COMPLETED" if update.how == "works" else "UPDATE_FAILED"
    update.vm.follow(update.check_events(end)[end]["pid"])
    if update.other.command("query-update")["status"] != end[len("UPDATE_"):].lower():
        raise Lost("the update did not end so")
    update.check_runs_on()


def other_hangs_up(update):
    update.other.close()
    update.let_go()
    update.finish()
    update.check_events(*update.over)
    update.check_runs_on()


def ended_by(update, sig):
    sent_to = update.vm.pid
    os.kill(sent_to, sig)
    update.let_go()
    if not update.early:
        update.finish()
    if sent_to != update.vm.pid:  # a process that died before anybody in it read the signal
        update.check_events(*update.over)
        update.check_runs_on()
        return
    update.check_end(128 + sig, update.over, guest=False, reason="host-signal")


def sigterm(update):
    ended_by(update, signal.SIGTERM)


def sigint(update):
    ended_by(update, signal.SIGINT)


def sigterm_to_the_stand_in(update):
    """Of which the service manager was told as the main process: it goes on to whoever has the guest."""
    pid = update.stand_in()
    if pid:
        os.kill(pid, signal.SIGTERM)
    update.let_go()
    update.finish()
    if not pid:
        update.check_events(*update.over)
        update.check_runs_on()
        return
    update.check_end(128 + signal.SIGTERM, update.over, guest=False, reason="host-signal")


def stand_in_is_late(update):
    """It does not run for a while: a host that is busy, or has it stopped."""
    pid = update.stand_in()
    os.kill(pid, signal.SIGSTOP)
    update.let_go()
    time.sleep(0.3)
    os.kill(pid, signal.SIGCONT)
    update.finish()
    update.check_events(*update.over)
    update.check_runs_on()


COMMANDS = [quit, stop_and_cont, second_update]
HANG_UPS = [asker_hangs_up, other_hangs_up]
SIGNALS = [sigterm, sigint, sigterm_to_the_stand_in]

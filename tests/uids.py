"""Under which uids a runner can be asked here: root can become an ordinary user, who can only be themselves."""

import os

AS_ROOT = os.geteuid() == 0
ORDINARY = 54321 if AS_ROOT else os.geteuid()
RUNNERS = {"root": 0, "ordinary": ORDINARY} if AS_ROOT else {"ordinary": ORDINARY}


def become(uid: int) -> None:
    """Be this user from now on, with no way back."""
    if uid != os.geteuid():
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)

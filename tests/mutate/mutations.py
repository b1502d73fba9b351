"""The layers that can be turned off, each with the tests that have to notice."""

from dataclasses import dataclass
from pathlib import Path


class OutOfDate(Exception):
    """The text that a mutation changes is not there (any more), or not just once."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In `file`, `old`, which stands there once, becomes `new`."""

    file: str
    old: str
    new: str

    def apply(self, tree: Path) -> None:
        path = tree / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise OutOfDate(f"{self.file} has {text.count(self.old)} times, not once: {self.old}")
        path.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True, slots=True)
class Mutation:
    """A layer turned off by `edits`; each of `tests` has to fail then, for a reason of its own (not an error)."""

    name: str
    tests: tuple[str, ...]
    edits: tuple[Edit, ...]


def off(name: str, test: str, *edits: tuple[str, str, str]) -> Mutation:
    """Each edit: file, old, new. The test may be several, one a line."""
    return Mutation(name, tuple(test.split()), tuple(Edit(*edit) for edit in edits))


MUTATIONS = (
    off(
        "a row's tenant is not looked at when it is read",
        "tests/tenants/test_context.py::test_without_a_tenant_no_row_is_seen",
        ("tenants/rls.py", 'USING ("{self.column}" = {THIS_TENANT}) WITH', "USING (true) WITH"),
    ),
    off(
        "a table's owner is above its rules",
        "tests/tenants/test_checks.py::test_the_application_role_of_this_house_is_fine",
        ("tenants/rls.py", '            ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY;\n', ""),
    ),
    off(
        "the policy for crossing functions is open to everybody",
        "tests/tenants/test_context.py::test_without_a_tenant_no_row_is_seen",
        ("tenants/rls.py", "ON %I TO %I USING (true)", "ON %I TO PUBLIC USING (true)"),
    ),
    off(
        "the application connects as the owner",
        "tests/tenants/test_checks.py::test_the_application_role_of_this_house_is_fine",
        ("tests/servers.py", '"DATABASE_URL": self.urls.app', '"DATABASE_URL": self.urls.owner'),
    ),
    off(
        "no walls around the agent",
        "tests/security/test_agent.py::test_t14_links_and_paths_that_leave_show_nothing_of_the_host",
        ("claude_runner/sandbox.py", "    if tier is Tier.NONE:\n        argv", "    if tier:\n        argv"),
        (
            "claude_runner/sandbox.py",
            "    if tier is Tier.NONE:\n        return Inside",
            "    if tier:\n        return Inside",
        ),
    ),
    off(
        "the network is open",
        "tests/security/test_agent.py::test_t15_there_is_no_network_but_an_empty_loopback",
        (
            "claude_runner/sandbox.py",
            '"--unshare-all", "--unshare-user"',
            '"--unshare-all", "--share-net", "--unshare-user"',
        ),
    ),
    off(
        "the gateway passes other paths",
        "tests/claude_runner/test_gateway.py::test_other_paths_do_not_exist",
        (
            "claude_runner/gateway.py",
            "ALLOWED.get((request.method, request.path))",
            "ALLOWED.get((request.method, request.path), frozenset())",
        ),
    ),
    off(
        "the agent's own headers pass the gateway",
        "tests/claude_runner/test_gateway.py::test_the_credential_is_swapped",
        ("claude_runner/headers.py", "if name.lower() in named or", "if named or"),
    ),
    off(
        "a model's server is connected to wherever its name leads",
        "tests/security/test_t20_upstreams.py::test_t20_a_name_that_comes_to_mean_a_private_address_gets_no_further_byte",
        ("claude_runner/upstreams.py", "_Resolver(addresses_of)", "_Resolver(any_address_of)"),
    ),
    off(
        "a credential that was revoked goes on",
        "tests/claude_runner/test_gateway.py::test_leave_that_was_not_used_at_once_is_asked_for_anew",
        ("claude_runner/gateway.py", "monotonic() - self._asked < FRESH", "True"),
    ),
    off(
        "no budget is asked about",
        "tests/conversations/test_ledger.py::test_a_budget_of_nothing_allows_nothing",
        ("conversations/accounts.py", "if why := used_up(credential.tenant):", "if why := str():"),
    ),
    off(
        "the Origin of a socket is not looked at",
        "tests/conversations/test_consumers.py::test_a_cookie_from_elsewhere_is_closed_before_it_is_accepted",
        (
            "conversations/consumers.py",
            'return is_ours(headers.get("origin", ""), headers.get("host", ""))',
            "return bool(headers)",
        ),
    ),
)

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


WALLS = "tests/security/test_t03_t07_walls.py"
SANDBOX = "tests/claude_runner/test_sandbox.py"

MUTATIONS = (
    # The database
    off(
        "a table without the policy of its tenant",
        f"{WALLS}::test_t3_without_a_tenant_named_there_is_no_row_and_no_write",
        ("tenants/rls.py", 'USING ("{self.column}" = {THIS_TENANT}) WITH', "USING (true) WITH"),
    ),
    off(
        "the policy for crossing functions is open to everybody",
        f"{WALLS}::test_t3_under_another_tenants_name_there_is_no_row_and_no_write_either",
        ("tenants/rls.py", "ON %I TO %I USING (true)", "ON %I TO PUBLIC USING (true)"),
    ),
    off(
        "a table's owner is above its rules",
        "tests/tenants/test_checks.py::test_the_application_role_of_this_house_is_fine",
        ("tenants/rls.py", '            ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY;\n', ""),
    ),
    off(
        "the application connects as the owner",
        "tests/tenants/test_checks.py::test_the_application_role_of_this_house_is_fine",
        ("tests/servers.py", '"DATABASE_URL": self.urls.app', '"DATABASE_URL": self.urls.owner'),
    ),
    off(
        "nobody looks at the tables' policies at the start",
        "tests/tenants/test_checks.py::test_each_hole_is_told",
        ("tenants/checks.py", "        yield from _problems_of(*table)\n", "        pass\n"),
    ),
    off(
        "one unit of work names no tenant",
        "tests/conversations/test_accounts.py::test_a_revoked_credential_is_refused_at_the_next_request",
        ("conversations/accounts.py", "in_tenant(self.tenant, self._admit", "across_tenants(self._admit"),
        ("conversations/accounts.py", "import in_tenant", "import across_tenants, in_tenant"),
    ),
    off(
        "what is refused is not kept in the audit",
        "tests/security/test_strangers.py::test_t1_each_refusal_stands_in_the_strangers_own_audit",
        ("tenants/audit.py", "if lately.count() < settings.AUDIT_REFUSALS_PER_MINUTE:", "if not lately:"),
    ),
    off(
        "the audit may be changed",
        "tests/tenants/test_audit.py::test_the_application_changes_and_forges_no_event"
        " tests/tenants/test_checks.py::test_the_application_role_of_this_house_is_fine",
        ("tenants/rls.py", '{_for_role("app", "REVOKE ALL ON %I FROM %I", table)}', ""),
    ),
    off(
        "the audit's events are not chained",
        "tests/tenants/test_audit.py::test_what_a_superuser_changed_is_found",
        ("tenants/sql/audit_digest.sql", "sha256(before || convert_to(", "sha256(convert_to("),
        ("tenants/sql/audit_digest.sql", "event.act, event.via, event.actor_id", "event.act, event.via"),
    ),
    # Secrets at rest
    off(
        "a ciphertext is not bound to its place",
        f"{WALLS}::test_t6_nor_in_another_row_or_field_of_its_own_tenant",
        ("tenants/secrets.py", 'return f"{tenant}/{field}/{row}".encode()', 'return b""'),
    ),
    # Access
    off(
        "a conversation is open to each member of its tenant",
        "tests/conversations/test_sharing.py::test_who_else_may_read_it_only_once_it_is_shared",
        (
            "conversations/access.py",
            "return Conversation.objects.filter(Q(author_id=caller.member_id) | Q(is_shared=True))",
            "return Conversation.objects.all()",
        ),
    ),
    off(
        "an open socket is not asked again who it is",
        "tests/security/test_t8_removed.py::test_t8_an_open_socket_is_closed_within_five_seconds",
        ("conversations/consumers.py", "await asyncio.sleep(ASK_AGAIN_SECONDS)", "await asyncio.sleep(1000)"),
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
    off(
        "messages are not counted",
        "tests/security/test_edge.py::test_t22_a_flood_of_messages_gets_errors_and_the_socket_lives_on",
        (
            "tenants/rates.py",
            'await self._count("messages", settings.KEY_MESSAGES_PER_SECOND, _who(caller))',
            "return",
        ),
    ),
    off(
        "pages are not counted",
        "tests/security/test_edge.py::test_t22_a_flood_of_pages_is_refused_with_a_page_that_says_so",
        ("tenants/rates.py", 'await self._count("pages", settings.PAGES_PER_SECOND, who)', "return"),
    ),
    off(
        "a request may take for ever to come in",
        "tests/config/test_web.py::test_t22_a_request_that_trickles_in_is_not_waited_for",
        ("config/web.py", "            self.timeoutConnection()\n", "            pass\n"),
    ),
    # The sandbox
    off(
        "no bubblewrap around the agent",
        f"{SANDBOX}::test_only_its_own_files_are_inside",
        (
            "claude_runner/sandbox.py",
            "    if tier in UNWALLED:\n        argv",
            "    if tier:\n        argv",
        ),
        (
            "claude_runner/sandbox.py",
            "    if tier in UNWALLED:\n        return Inside",
            "    if tier:\n        return Inside",
        ),
    ),
    off(
        "the network is open",
        f"{SANDBOX}::test_no_network_and_no_other_process",
        (
            "claude_runner/sandbox.py",
            '"--unshare-all", "--unshare-user"',
            '"--unshare-all", "--share-net", "--unshare-user"',
        ),
    ),
    off(
        "the host's root is bound",
        f"{SANDBOX}::test_only_its_own_files_are_inside",
        (
            "claude_runner/sandbox.py",
            '*("--ro-bind", "/usr", "/usr"),',
            '*("--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"),',
        ),
    ),
    off(
        "the credential is in the agent's environment",
        f"{SANDBOX}::test_no_secret_is_inside",
        (
            "claude_runner/process.py",
            "env = environment(self.spec, self._paths, self._host.settings)",
            "env = environment(self.spec, self._paths, self._host.settings)\n"
            '        env["SECRET"] = (await self._gateway._account.admit()).upstream.secret',
        ),
    ),
    off(
        "no filter of system calls",
        f"{SANDBOX}::test_the_strongest_tier_is_proved",
        ("claude_runner/sandbox.py", '        *("--seccomp", str(CALLS_FD)),\n', ""),
    ),
    off(
        "the CLI's memory is open to the agent",
        f"{SANDBOX}::test_the_strongest_tier_is_proved",
        ("claude_runner/cli.py", "CLOSED, SCRIPT = 0o111, 0o555", "CLOSED, SCRIPT = 0o555, 0o555"),
    ),
    off(
        "Landlock without a uid of its own is taken for a wall between tenants",
        "tests/security/test_t18_tiers.py::test_t18_landlock_takes_a_uid_of_its_own_to_be_a_wall_between_tenants"
        " tests/claude_runner/test_confine.py::test_an_ordinary_user_gets_it_too",
        ("claude_runner/spec.py", "self.tier is Tier.LANDLOCK and own_uid", "self.tier is Tier.LANDLOCK"),
    ),
    off(
        "without namespaces an agent changes other processes",
        "tests/claude_runner/test_confine.py::test_an_ordinary_user_gets_it_too"
        " tests/claude_runner/test_seccomp.py::test_without_walls_other_processes_are_not_changed",
        ("claude_runner/seccomp.py", "if not walled:\n        for name", "if False:\n        for name"),
    ),
    off(
        "a host's tier is not looked at when a turn is given out",
        "tests/security/test_t18_tiers.py::test_t18_a_turn_goes_to_no_host_below_its_tenants_least_tier",
        (
            "conversations/sql/claim_turn.sql",
            "ten.least_tier = ANY(wanted) AND ",
            "",
        ),
    ),
    off(
        "a CLI that died in the crowd of its own processes has no reason",
        "tests/claude_runner/test_confine.py::test_a_cli_that_died_of_too_many_processes_unseen_has_that_reason",
        ("claude_runner/child.py", "return self.returncode == CROWDED", "return False"),
    ),
    off(
        "files that were deleted and are still open are not counted",
        "tests/claude_runner/test_limits.py::test_t16_deleted_files_count_once_while_somebody_holds_them",
        ("claude_runner/stored.py", "        count.nameless(pids, device)\n", ""),
    ),
    # The gateway
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
        "a body is parsed whatever it costs",
        "tests/security/test_t11_gateway.py::test_t11_a_body_of_endless_parts_holds_up_nobody",
        ("claude_runner/asked.py", "return self.parts <= MOST_PARTS", "return True"),
        ("claude_runner/turnstile.py", "if cost >= 1 and self._left < cost:", "if not self:"),
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
        "the gateway follows redirects",
        "tests/claude_runner/test_gateway.py::test_a_redirect_is_not_followed",
        ("claude_runner/gateway.py", "allow_redirects=False", "allow_redirects=True"),
    ),
    off(
        "addresses of private networks are taken for public ones",
        "tests/tenants/test_upstreams.py::test_no_spelling_of_a_private_host_passes",
        (
            "tenants/upstreams.py",
            "    try:\n        found = ip_address(address",
            "    return True\n    try:\n        found = ip_address(address",
        ),
    ),
    # The queue
    off(
        "a member's messages wait in any number",
        "tests/conversations/test_turns.py::test_a_member_has_so_many_messages_waiting_over_all_conversations",
        ("conversations/sql/queue_turn.sql", ">= most_of_author THEN", ">= 1e9 THEN"),
    ),
    off(
        "two runners of one name work side by side",
        "tests/conversations/test_hosts.py::test_who_lost_its_name_claims_renews_and_writes_nothing_under_it",
        ("conversations/sql/claim_turn.sql", " AND h.instance = process", ""),
    ),
    off(
        "a former holder's writes are taken",
        "tests/conversations/test_queue.py::test_a_former_holder_writes_nothing_after_a_takeover",
        ("conversations/sql/append_events.sql", " AND c.epoch = items.epoch\n", "\n"),
    ),
    # Pages
    off(
        "what a model says is not cleaned",
        "tests/conversations/test_markdown.py::test_what_the_model_says_can_only_be_read",
        ("conversations/markdown.py", "    html = nh3.clean(\n", "    html = (lambda text, **_: text)(\n"),
    ),
)

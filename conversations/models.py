"""WHAT: assistants, conversations, their turns and events.

A turn's row is the queue entry, an event's row is what people saw, and a transcript entry is what the CLI
remembers. Rows are written through few doors: `turns.submit_turn`, `controls`, and the database function
`append_events` (see migration 0002), which numbers the events of a conversation.
"""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from tenants.models import TenantRow

TITLE_LENGTH = 120


class TurnState(models.TextChoices):
    QUEUED = "queued", _("queued")
    RUNNING = "running", _("running")
    WAITING = "waiting", _("waiting")
    COMPLETED = "completed", _("completed")
    FAILED = "failed", _("failed")
    INTERRUPTED = "interrupted", _("interrupted")


ACTIVE = (TurnState.RUNNING, TurnState.WAITING)
ENDED = (TurnState.COMPLETED, TurnState.FAILED, TurnState.INTERRUPTED)


class PermissionMode(models.TextChoices):
    DEFAULT = "default", _("ask before each change")


class Assistant(TenantRow):
    """How a conversation's model is set up: its name, its model, what it is told beforehand."""

    name = models.CharField(max_length=80)
    model = models.CharField(max_length=120, blank=True)
    system_prompt = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "id"], name="assistant_of_tenant"),
            models.UniqueConstraint(fields=["tenant", "name"], name="assistant_name_in_tenant"),
        ]

    def __str__(self) -> str:
        return self.name


class Conversation(TenantRow):
    """One conversation and the lease on it: its holder is the runner that has the live process.

    `epoch` rises with each new holder and fences the writes of former ones; `last_seq` is the number of
    its newest event; `files_on` names the runner on whose disk its files lie ('' while it has none).
    A conversation without a turn is a draft: warmed up, listed nowhere. One that `is_shared` is read by the whole
    tenant, written by its author.
    """

    author = models.ForeignKey(
        "tenants.Membership", on_delete=models.CASCADE, db_constraint=False, related_name="+"
    )
    assistant = models.ForeignKey(
        Assistant, on_delete=models.PROTECT, db_constraint=False, related_name="conversations"
    )
    title = models.CharField(max_length=TITLE_LENGTH, blank=True)
    is_shared = models.BooleanField(default=False)
    model = models.CharField(max_length=120, blank=True)
    permission_mode = models.CharField(
        max_length=20, choices=PermissionMode.choices, default=PermissionMode.DEFAULT
    )
    last_seq = models.BigIntegerField(default=0)
    holder = models.CharField(max_length=120, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    epoch = models.BigIntegerField(default=0)
    files_on = models.CharField(max_length=120, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    archived_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "id"], name="conversation_of_tenant")
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "author", "-updated_at"], name="conversation_newest"),
            models.Index(
                fields=["tenant", "-updated_at"], condition=Q(is_shared=True), name="conversation_shared"
            ),
            models.Index(fields=["holder", "lease_until"], condition=~Q(holder=""), name="conversation_held"),
        ]

    def __str__(self) -> str:
        return self.title or str(self.id)

    @property
    def effective_model(self) -> str:
        """The model asked for: the conversation's own, else its assistant's, else '' (the CLI's default)."""
        return self.model or self.assistant.model


class Turn(TenantRow):
    """One message of a person and all that came of it. While `queued` it is the queue's entry.

    `waits_for`: why no live host may take it (see `waiting`), as far as that was said; '' where one may.
    """

    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, db_constraint=False, related_name="turns"
    )
    number = models.PositiveIntegerField()
    author = models.ForeignKey(
        "tenants.Membership", on_delete=models.CASCADE, db_constraint=False, related_name="+"
    )
    client_id = models.UUIDField(null=True, blank=True)
    digest = models.CharField(max_length=64)
    prompt = models.JSONField()
    state = models.CharField(max_length=12, choices=TurnState.choices, default=TurnState.QUEUED)
    waits_for = models.CharField(max_length=20, blank=True, default="", db_default="")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    stop_reason = models.CharField(max_length=40, blank=True)
    usage = models.JSONField(default=dict)
    cost_usd = models.DecimalField(max_digits=12, decimal_places=6, null=True, blank=True)
    timing = models.JSONField(default=dict)
    error = models.JSONField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "id"], name="turn_of_tenant"),
            models.UniqueConstraint(fields=["conversation", "number"], name="turn_number"),
            models.UniqueConstraint(
                fields=["tenant", "author", "client_id"],
                condition=Q(client_id__isnull=False),
                name="turn_client_id",
            ),
            models.UniqueConstraint(
                fields=["conversation"], condition=Q(state__in=ACTIVE), name="turn_one_active"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["created_at"], condition=Q(state="queued"), name="turn_queue"),
            models.Index(fields=["author"], condition=Q(state="queued"), name="turn_queued_of"),
        ]

    def __str__(self) -> str:
        return f"{self.conversation_id} #{self.number}"


class Event(models.Model):
    """One thing that happened, as people saw it. (epoch, ordinal) is the runner's own number of it."""

    pk = models.CompositePrimaryKey("conversation_id", "seq")
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="+")
    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, db_constraint=False, related_name="+"
    )
    seq = models.BigIntegerField()
    turn_id = models.UUIDField(null=True, blank=True)
    type = models.CharField(max_length=40)
    data = models.JSONField(default=dict)
    at = models.DateTimeField()
    epoch = models.BigIntegerField(null=True, blank=True)
    ordinal = models.BigIntegerField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["conversation", "epoch", "ordinal"], name="event_once")
        ]

    def __str__(self) -> str:
        return f"{self.seq} {self.type}"


class EventPack(TenantRow):
    """A run of old events of one conversation, from `first_seq` to `last_seq`, compressed without loss."""

    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, db_constraint=False, related_name="+"
    )
    first_seq = models.BigIntegerField()
    last_seq = models.BigIntegerField()
    packed = models.BinaryField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["conversation", "first_seq"], name="event_pack_once")
        ]

    def __str__(self) -> str:
        return f"{self.conversation_id} {self.first_seq}-{self.last_seq}"


class Control(models.Model):
    """What a person wants of a running turn (`interrupt`, `permission`, `set`): a row first, then a nudge.

    The holder of the conversation takes it, whether or not the nudge arrived.
    """

    class Kind(models.TextChoices):
        INTERRUPT = "interrupt", _("interrupt")
        PERMISSION = "permission", _("permission")
        SET = "set", _("set")

    id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="+")
    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, db_constraint=False, related_name="+"
    )
    turn_id = models.UUIDField(null=True, blank=True)
    kind = models.CharField(max_length=12, choices=Kind.choices)
    data = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)
    taken_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["conversation"], condition=Q(taken_at__isnull=True), name="control_pending")
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.conversation_id}"


class PermissionRequest(TenantRow):
    """A tool call that waits for a person's yes or no."""

    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, db_constraint=False, related_name="+"
    )
    turn_id = models.UUIDField()
    asked_at = models.DateTimeField()
    decision = models.CharField(max_length=12, blank=True)
    decided_by = models.UUIDField(null=True, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "id"], name="permission_of_tenant")
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.decision or 'open'}"


class TranscriptEntry(models.Model):
    """One line of the CLI's own transcript, kept as the text that it was (it may hold what jsonb refuses)."""

    id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="+")
    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, db_constraint=False, related_name="+"
    )
    project_key = models.CharField(max_length=300)
    session_id = models.CharField(max_length=80)
    subpath = models.CharField(max_length=300, blank=True)
    entry_uuid = models.CharField(max_length=80, blank=True)
    entry = models.TextField()
    written_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["conversation", "project_key", "session_id", "subpath", "entry_uuid"],
                condition=~Q(entry_uuid=""),
                name="transcript_entry_once",
            )
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["conversation", "project_key", "session_id", "subpath", "id"],
                name="transcript_in_order",
            )
        ]

    def __str__(self) -> str:
        return f"{self.session_id} {self.id}"


class RunnerHost(models.Model):
    """A runner as it last said of itself. Belongs to no tenant.

    `findings`: each probe of its last proof as {name, holds, detail}, of the time `proved_at`. `refuses`: why it
    takes no turn, '' while it does. Without `any_tenant` it works for the first tenant only. `places`: how many
    processes it has room for (0: it did not say). `turns_ended`: how many of its turns ended how, since it started.
    `instance`: which process says so, of all that ever had the name (see `hosts.take_name`).
    """

    name = models.CharField(primary_key=True, max_length=120)
    instance = models.CharField(max_length=80, blank=True, db_default="")
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    tier = models.CharField(max_length=40)
    tier_reason = models.TextField(blank=True)
    cli_version = models.CharField(max_length=40, blank=True)
    processes = models.PositiveIntegerField(default=0)
    places = models.PositiveIntegerField(default=0, db_default=0)
    findings = models.JSONField(default=list)
    proved_at = models.DateTimeField(null=True, blank=True)
    refuses = models.TextField(blank=True)
    any_tenant = models.BooleanField(default=True)
    turns_ended = models.JSONField(default=dict)

    class Meta:
        verbose_name = _("runner host")
        verbose_name_plural = _("Isolation of runner hosts")

    def __str__(self) -> str:
        return self.name


class LedgerEntry(TenantRow):
    """One request to a model, as the gateway counted it. `id` is the gateway's, so that told twice it counts once.

    It names what it was for by id only, and outlives all of that. `exact`: the model's server told the tokens,
    else they are estimated. `priced`: the model has a price of its own, else `cost_usd` is nothing or a guess.
    """

    conversation_id = models.UUIDField()
    turn_id = models.UUIDField(null=True, blank=True)
    member_id = models.UUIDField()
    credential_id = models.UUIDField()
    model = models.CharField(max_length=120, blank=True)
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cache_read_tokens = models.BigIntegerField()
    cache_write_tokens = models.BigIntegerField()
    cost_usd = models.DecimalField(max_digits=20, decimal_places=8)
    exact = models.BooleanField()
    priced = models.BooleanField()
    at = models.DateTimeField()

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["tenant", "at"], name="ledger_in_order"),
            models.Index(fields=["conversation_id"], name="ledger_of_conversation"),
        ]

    def __str__(self) -> str:
        return f"{self.at} {self.model} {self.cost_usd}"


class MonthSpent(models.Model):
    """What a tenant spent in a calendar month of UTC: the sum of its ledger, kept with each entry."""

    pk = models.CompositePrimaryKey("tenant_id", "month")
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="+")
    month = models.DateField()
    cost_usd = models.DecimalField(max_digits=20, decimal_places=8)
    tokens = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.month} {self.cost_usd}"


class Disposal(models.Model):
    """An order to delete the folder of a conversation that is gone. See `disposals`; the database writes it.

    Belongs to no tenant, since it outlives them, and names nothing but a conversation's id. `runner` is the one
    that had the files; any other that has a folder of it deletes that as well.
    """

    conversation = models.UUIDField(primary_key=True)
    runner = models.CharField(max_length=120, blank=True)
    ordered_at = models.DateTimeField()
    done_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return str(self.conversation)

"""Forms of the pages. What they let through is checked once more where it is stored."""

from typing import Any

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from tenants.access import Caller
from tenants.credentials import OAUTH_TERMS
from tenants.drafts import NAME_LENGTH, SECRET_LENGTH, CredentialDraft
from tenants.errors import InvalidRequest
from tenants.invitations import Offer
from tenants.members import right_over
from tenants.models import Credential, Tenant
from tenants.roles import Action, CredentialKind, LeastTier, Role

MODEL_LENGTH = 120
MOST_MODELS = 50
OWNERS = [("tenant", _("Everybody in this tenant")), ("member", _("Only me"))]


class CredentialForm(forms.Form):
    """Adding a credential; its owner is asked only of those who may choose."""

    kind = forms.ChoiceField(label=_("What it is"))
    name = forms.CharField(
        label=_("Name"), max_length=NAME_LENGTH, help_text=_("As you and others will find it in the list.")
    )
    base_url = forms.CharField(
        label=_("Address of the server"),
        required=False,
        help_text=_(
            "For an own server only: where its Messages API begins, such as https://models.example.org."
        ),
        widget=forms.URLInput(attrs={"placeholder": "https://"}),
    )
    secret = forms.CharField(
        label=_("Key or token"),
        max_length=SECRET_LENGTH,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    owner = forms.ChoiceField(label=_("Who uses it"), choices=OWNERS)
    default = forms.BooleanField(label=_("Use it from the next message on"), required=False, initial=True)

    def __init__(self, caller: Caller, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]  # passed on as they are
        self.caller = caller
        allowed = settings.ALLOW_OAUTH_TOKENS
        kinds = [kind for kind in CredentialKind.choices if allowed or kind[0] != CredentialKind.OAUTH_TOKEN]
        kind, secret = self.fields["kind"], self.fields["secret"]
        assert isinstance(kind, forms.ChoiceField)
        kind.choices = kinds
        if allowed:
            secret.help_text = OAUTH_TERMS
        if not caller.may(Action.MANAGE_CREDENTIALS):
            del self.fields["owner"]

    def draft(self) -> CredentialDraft | None:
        """What was entered, found good; or None, and errors that say what is wrong.

        Resolves the name of a server, which may take seconds: not inside a transaction.
        """
        if not self.is_valid():
            return None
        given = self.cleaned_data
        try:
            return CredentialDraft.checked(
                name=given["name"], kind=given["kind"], secret=given["secret"], base_url=given["base_url"]
            )
        except InvalidRequest as error:
            self.add_error(None, error.message)
            return None

    def keep(self, draft: CredentialDraft) -> Credential:
        """The new credential. Inside the tenant's context."""
        given = self.cleaned_data
        return Credential.objects.create_for(
            self.caller, draft, default=given["default"], owner=given.get("owner", "member")
        )


class InvitationForm(forms.Form):
    """Inviting somebody; the roles are those that the caller may give."""

    email = forms.EmailField(
        label=_("E-mail"),
        required=False,
        help_text=_(
            "The link is mailed there, and good for that account alone. Empty: good for whoever has it."
        ),
        widget=forms.EmailInput(attrs={"autocomplete": "off", "placeholder": "name@example.org"}),
    )
    role = forms.ChoiceField(label=_("Role"), initial=Role.MEMBER)

    def __init__(self, caller: Caller, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]  # passed on as they are
        role = self.fields["role"]
        assert isinstance(role, forms.ChoiceField)
        role.choices = [(one.value, one.label) for one in Role if caller.may(right_over(one))]


class NewcomerForm(forms.Form):
    """An account for who was invited; the address is asked where the invitation does not name it."""

    email = forms.EmailField(label=_("E-mail"), widget=forms.EmailInput(attrs={"autocomplete": "username"}))
    name = forms.CharField(
        label=_("Name"), max_length=120, widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    password = forms.CharField(
        label=_("Password"),
        max_length=200,
        help_text=_("At least 10 characters."),
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    def __init__(self, offer: Offer, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]  # passed on as they are
        if offer.email:
            del self.fields["email"]


class TenantForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for the type checker only
    """Some of what a tenant's admins say for all of it: on its page by the name of `act`; `done` once it counts."""

    act: str
    done: Any

    def save(self, commit: bool = True) -> Tenant:
        """Only what was asked: the rest of the row may have changed meanwhile."""
        tenant: Tenant = self.instance
        tenant.save(update_fields=list(self.fields))
        return tenant


class BudgetForm(TenantForm):
    """What a tenant's requests to models may come to in a month, and which models they may name."""

    act = "budget"
    done = _("It counts from the next request to a model on.")
    allowed_models = forms.CharField(
        label=_("Allowed models"),
        required=False,
        max_length=MOST_MODELS * (MODEL_LENGTH + 2),
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "autocomplete": "off"}),
        help_text=_(
            "One a line, as requests name them, such as claude-sonnet-5. Empty: all. Subagents may ask for other"
            " models than their conversation does, and fail where those are not named."
        ),
    )

    class Meta:
        model = Tenant
        fields = ("budget_usd", "budget_tokens", "allowed_models")
        labels = {
            "budget_usd": _("Budget a month, in US dollars"),
            "budget_tokens": _("Budget a month, in tokens"),
        }
        help_texts = {
            "budget_usd": _("By list prices, for a calendar month of UTC. Empty: no limit."),
            "budget_tokens": _("Also holds for models that have no price here. Empty: no limit."),
        }

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.initial["allowed_models"] = "\n".join(self.instance.allowed_models)

    def clean_allowed_models(self) -> list[str]:
        named = dict.fromkeys(line.strip() for line in self.cleaned_data["allowed_models"].splitlines())
        models = [name for name in named if name]
        if wrong := next((name for name in models if not _is_model_name(name)), None):
            raise forms.ValidationError(_("%(name)s is no name of a model."), params={"name": wrong[:80]})
        if len(models) > MOST_MODELS:
            raise forms.ValidationError(_("At most %(most)d models."), params={"most": MOST_MODELS})
        return models


def _is_model_name(name: str) -> bool:
    return len(name) <= MODEL_LENGTH and name.isprintable() and " " not in name


class LeastTierForm(TenantForm):
    """What sandbox a tenant's turns ask for at least."""

    act = "tier"
    done = _("It counts from the next turn on.")
    least_tier = forms.ChoiceField(
        label=_("Least sandbox"),
        required=False,
        choices=[("", _("whatever the operator runs")), *LeastTier.choices],
        help_text=_("Turns wait for a runner that is good enough, and say so."),
    )

    class Meta:
        model = Tenant
        fields = ("least_tier",)

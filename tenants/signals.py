"""What happens in a tenant that other rooms act upon."""

from django.dispatch import Signal

# Sent with `member` (a Membership) inside the transaction after which they hold no conversations here any more;
# what a receiver raises undoes it.
member_halted = Signal()

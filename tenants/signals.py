"""What happens in a tenant that other rooms act upon."""

from django.dispatch import Signal

# Sent with `member` (a Membership) inside the transaction that ends their belonging; what a receiver raises
# undoes it.
member_left = Signal()

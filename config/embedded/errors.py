"""What goes wrong with an embedded server, in a sentence for the person at the terminal."""


class ServerError(Exception):
    """A server could not be set up, started or reached."""

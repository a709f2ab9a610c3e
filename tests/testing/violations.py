"""Classes that break rules of a contract, noted by their own tests."""


class Violations:
    """Attributes: ``named``, by class and rule, the patterns of the message; ``subtle``, classes alone."""

    def __init__(self):
        self.named = {}
        self.subtle = []

    def breaks(self, rule, seen, remedy):
        """The class breaks this rule, with a message that matches these patterns."""

        def note(kind):
            self.named.setdefault(kind, {})[rule] = (seen, remedy)
            return kind

        return note

    def subtly(self, what):
        """The class does this, which is easily overlooked."""

        def note(kind):
            self.subtle.append(kind)
            return kind

        return note

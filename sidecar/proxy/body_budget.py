"""The memory for small bodies that are read before their requests take a connection."""


class BodyBudget:
    """At most `limit` bytes, of which an account may use `percent` of what other accounts leave."""

    def __init__(self, limit: int, percent: int, largest: int) -> None:
        self.largest = largest  # bytes of one body
        self.used = 0
        self._limit = limit
        self._percent = percent
        self._by_account: dict[str, int] = {}

    def take(self, account: str, size: int) -> bool:
        """Reserve memory for a body. Returns False if this account can get none now."""
        own = self._by_account.get(account, 0) + size
        others = self.used + size - own
        if own * 100 > (self._limit - others) * self._percent:
            return False
        self._by_account[account] = own
        self.used += size
        return True

    def free(self, account: str, size: int) -> None:
        """Free the memory of a body."""
        self.used -= size
        left = self._by_account[account] - size
        if left:
            self._by_account[account] = left
        else:
            del self._by_account[account]

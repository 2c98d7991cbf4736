"""One account in Valkey and in the reference, on a clock that the test sets.

A client cannot set a server's clock. So these tests replace the function `now_us()` in the text of
the scripts by one that reads a Redis key.
"""

from collections.abc import Sequence
from typing import Any

import hiredis
import redis

from sidecar.core.answers import Answer, Hold, QuotaDetail
from sidecar.core.counting import account as accounts
from sidecar.core.counting import corrections, limits
from sidecar.core.counting.corrections import NOT_KNOWN, CounterReading, JournalEntries
from sidecar.core.counting.counters import EMPTY, State
from sidecar.core.counting.limits import Grant
from sidecar.core.counting.reservations import NEW, AccountState
from sidecar.core.counting.survey import BoundClaim
from sidecar.core.kinds import MICRO, PeriodLimit
from sidecar.core.model import Account, Claim
from sidecar.stores import keys
from sidecar.stores.account_state import read_account
from sidecar.stores.commands import Commands, hold_arguments, settlement_arguments
from sidecar.stores.memory import bind_claims
from sidecar.stores.rebuild import Change
from sidecar.stores.rebuild import arguments as arguments_of
from sidecar.stores.scripts import Script, answer_of, load

HOUR = 3_600 * MICRO
START = 1_790_000_000 * MICRO // HOUR * HOUR
ACME = Account("acme", "pro")
MOST_GRANTS = 64


def on_clock(name: str) -> str:
    """The script's text, on the test's clock."""
    text = load(f"limits/{name}").text.decode()
    clock = (
        "local function now_us()\n  return tonumber(redis.call('GET', 'clock'))\nend\n"
        "local function real_now_us()"
    )
    assert "local function now_us()" in text
    return text.replace("local function now_us()", clock)


def arguments(command: bytes) -> list[bytes]:
    """The arguments of a RESP command after EVALSHA and the SHA-1."""
    reader = hiredis.Reader()
    reader.feed(command)
    return list(reader.gets())[2:]


def _free(claim: Claim) -> Claim:
    return Claim(claim.limit, 0, forced=True)


class Both:
    """Runs each operation in Valkey and in the reference, whose answers must be equal."""

    def __init__(self, client: "redis.Redis") -> None:
        client.flushdb()
        self.client = client
        self.now = START
        self.account = ACME  # its time zone and billing anchor may change
        self.ledger: AccountState = NEW
        self._commands = Commands("qs")
        self._scripts = {name: client.register_script(on_clock(name)) for name in
                         ("reserve", "peek", "settle", "renew", "grant", "refund", "charge",
                          "rebuild")}  # fmt: skip

    def run(self, name: str, arguments: Sequence[Any]) -> list[int]:
        """Run a script at the test's time; the reply."""
        self.client.set("clock", self.now)
        count = int(arguments[0])
        reply = self._scripts[name](keys=arguments[1 : 1 + count], args=arguments[1 + count :])
        return list(reply)

    def _claims(
        self,
        name: str,
        claims: Sequence[Claim],
        more: Sequence[str | int],
        leases: bool = True,
        beside: str | None = None,
    ) -> list[bytes]:
        script = Script(name, b"", b"sha")
        command = self._commands.claims(
            script, self.account, "k1", claims, self.now, more=more, leases=leases, beside=beside
        )
        return arguments(command)

    def asks(self, claims: Sequence[Claim]) -> list[BoundClaim]:
        return bind_claims(self.account, "k1", claims, self.now)

    def stored(self) -> dict[str, Any]:
        """The account's state in Valkey."""
        state, leases = keys.state("qs", "acme"), keys.leases("qs", "acme")
        return {
            "state": self.client.hgetall(state),
            "leases": self.client.zrange(leases, 0, -1, withscores=True),
            "expires": [self.client.pexpiretime(name) for name in (state, leases)],
        }

    def counters(self) -> dict[str, State]:
        """The states of the limits in Valkey."""
        fields = self.client.hgetall(keys.state("qs", "acme"))
        return dict(read_account(fields, {}).state.states)

    def peek(self, claims: Sequence[Claim]) -> Answer:
        before = self.stored()
        reply = self.run("peek", self._claims("peek", claims, ()))
        assert self.stored() == before, "peek changes nothing"
        expected = accounts.peek(self.ledger, self.asks(claims), self.now)
        return self._same(reply, expected, claims)

    def reserve(self, claims: Sequence[Claim], hold: Hold | None = None) -> Answer:
        looked = self.peek(claims)
        # A peek counts the slots of expired leases as free, but not their other units.
        releases = any(open_.orphans == "release" for open_ in self.ledger.opened.values())
        if hold is not None:
            self.sweep()
        before = self.stored()
        more = () if hold is None else hold_arguments(hold)
        sent = self._claims("reserve", claims, more, leases=hold is not None)
        reply = self.run("reserve", sent)
        expected, after = accounts.reserve(self.ledger, self.asks(claims), self.now, hold)
        self.ledger = after
        answer = self._same(reply, expected, claims)
        assert answer.granted or self.stored() == before, "a refusal changes nothing"
        if not releases:
            assert looked.granted is answer.granted
        return answer

    def sweep(self) -> None:
        """End expired leases by a reservation without claims."""
        hold = Hold("sweep", HOUR)
        self.run("reserve", self._claims("reserve", (), hold_arguments(hold)))
        _, self.ledger = accounts.reserve(self.ledger, (), self.now, hold)
        self.run("settle", self._claims("settle", (), (1, "sweep")))
        _, self.ledger = accounts.settle(self.ledger, "sweep", (), self.now)

    def settle(self, hold_id: str, claims: Sequence[Claim], *, billed: bool = True) -> Answer:
        more = settlement_arguments(hold_id, billed=billed)
        reply = self.run("settle", self._claims("settle", claims, more))
        expected, self.ledger = accounts.settle(
            self.ledger, hold_id, self.asks(claims), self.now, billed=billed
        )
        return self._same(reply, expected, claims)

    def charge(self, claims: Sequence[Claim], late_us: int, entries: JournalEntries) -> int:
        """Charge requests that were allowed `late_us` ago; the status."""
        until = [self.now - late_us] * len(claims)
        sent = self._claims(
            "charge", claims, (entries.first, entries.last, *until, *entries.reported),
            beside=keys.charged("qs", "acme", entries.journal, "k1"),
        )  # fmt: skip
        before = self.stored()
        reply = self.run("charge", sent)
        status, expected, self.ledger = corrections.charge(
            self.ledger, self.asks(claims), until, entries, self.now
        )
        assert reply[0] == status
        if status == -2:
            assert reply[2] == self.ledger.charged[entries.journal]
        else:
            answer = self._same(reply, expected._replace(granted=status == 1), claims)
            assert answer.granted is (status == 1)
        assert status == 1 or self.stored() == before, "what is charged once is not charged again"
        return status

    def rebuild(self, claims: Sequence[Claim], less: int, stale: bool,
                reported: int = NOT_KNOWN) -> bool:  # fmt: skip
        """Rebuild by costs that may be negative; whether it was done.

        The counters were lower by `less` when they were read. `stale`: another rebuild came since.
        `reported`: overage that events have reported of each counter's missing units.
        """
        asks = self.asks(claims)
        looked = accounts.peek(self.ledger, [ask._replace(claim=_free(ask.claim)) for ask in asks],
                             self.now)  # fmt: skip
        read = [
            CounterReading(max(0, used - less), limits.current(
                claim.limit, self.ledger.states.get(ask.field, EMPTY), ask.window, self.now
            )[0].since_us, reported)
            for used, claim, ask in zip(looked.used, claims, asks, strict=True)
            if isinstance(claim.limit, PeriodLimit) and ask.window
        ]  # fmt: skip
        changes = [
            Change(claim.limit, None, claim.cost, *one)
            for claim, one in zip(claims, read, strict=True)
            if isinstance(claim.limit, PeriodLimit)
        ]
        rebuilt = self.ledger.rebuilt + stale
        state = keys.state("qs", "acme")
        before = self.stored()
        reply = self.run(
            "rebuild", [1, state, *arguments_of(self.account, changes, str(rebuilt), self.now)]
        )
        expected, self.ledger = corrections.rebuild(self.ledger, asks, read, rebuilt, self.now)
        answer = self._same(reply, expected, claims)
        assert answer.granted or self.stored() == before, "what has changed is left alone"
        if answer.granted:
            assert int(self.client.hget(state, keys.REBUILT) or 0) == self.ledger.rebuilt
            assert self.client.pttl(state) > 0
        return answer.granted

    def renew(self, hold_ids: Sequence[str], lease_us: int) -> None:
        renewed, _ = self.run("renew", [1, keys.leases("qs", "acme"), lease_us, *hold_ids])
        assert renewed == len(set(hold_ids) & set(self.ledger.leases))
        self.ledger = accounts.renew(self.ledger, hold_ids, lease_us, self.now)

    def grant(self, given: Grant) -> bool:
        names = [keys.state("qs", "acme"), keys.outbox("qs", "acme")]
        sent = [2, *names, 1000, given.id, given.field, given.units, given.priority,
                MOST_GRANTS, "{}", 60_000, given.meter, "at", given.expires_us]  # fmt: skip
        status, now, _ = self.run("grant", sent)
        new, self.ledger = accounts.grant(self.ledger, given, self.now)
        assert (status == 1, now) == (new, self.now)
        return new

    def _same(self, reply: list[int], expected: Answer, claims: Sequence[Claim]) -> Answer:
        answer = answer_of(reply, len(claims))
        assert answer[:4] == expected[:4]
        if answer.details:
            assert answer.details == expected.details
        else:
            for one, claim in zip(expected.details, claims, strict=True):
                assert one == QuotaDetail(notified=one.notified), claim
        return answer

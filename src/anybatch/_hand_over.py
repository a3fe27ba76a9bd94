"""A lease → plan → files → `accept`: repeated by anybody, at any line, to the same effect."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import attrs

from ._encoding import decode, read_head
from ._exceptions import AnybatchError, RequestFailed, RequestRejected
from ._intake import ProviderIntake
from ._models import Accepted, Head, Lease, Limits, Member, Part, Plan, PlanPart, Ranges
from ._packing import Pack, as_ranges, most_room, pack, part_id
from ._receipts import Failure, Receipt, as_receipt
from ._threads import run_sync
from .abc import HandlerLike, LeasingQueue

logger = logging.getLogger(__name__)

Built = dict[int, bytes]  # lines that a user's `Batch` subclass built, by log number


@attrs.frozen(eq=False)
class HandOver:
    """Hands a leased interval to a handler.

    Args:
        queue: where the interval is.
        intake: completes elements that came bare.
        handlers: entered; one of them takes each interval.
        limits: what no batch exceeds: the provider's, narrowed by the thresholds.
        find_receipt: the receipt of a custom id, for queues whose records are no receipts.
    """

    queue: LeasingQueue
    intake: ProviderIntake
    handlers: Sequence[HandlerLike]
    limits: Limits
    find_receipt: Callable[[str], Receipt[Any] | None]

    async def __call__(self, lease: Lease) -> int:
        """Plan the interval if nobody has, then hand over each part; says how many there were."""
        built: Built = await self._build(lease) if self.intake.builds else {}
        if lease.plan is None:
            plan = await self._make_plan(lease, built)
            lease = await self.queue.plan(lease, plan)
        assert lease.plan is not None
        handler = self._handler_of(lease.plan)
        for part in lease.plan.parts:
            await self._accept(handler, lease, lease.plan, part, built)
        return len(lease.plan.parts)

    def _handler_of(self, plan: Plan) -> HandlerLike:
        return next(handler for handler in self.handlers if handler.store_id == plan.store)

    def _chosen(self) -> HandlerLike:
        position = most_room([(h.room(), h.live_batches) for h in self.handlers])
        # Room may have gone since the lease was cut; a batch too many is better than none.
        return self.handlers[position or 0]

    # Planning

    async def _make_plan(self, lease: Lease, built: Built) -> Plan:
        heads = [head async for head in self._heads(lease, built)]
        packs = await self._large_enough(lease, pack(heads, self.limits))
        parts = tuple(
            PlanPart(part_id(lease.id, position), as_ranges(p.numbers), p.group[0])
            for position, p in enumerate(packs)
        )
        return Plan(self._chosen().store_id, parts, self.intake.settings)

    async def _heads(self, lease: Lease, built: Built) -> AsyncIterator[Head]:
        """What packing needs; a member that cannot be sent is buried, its neighbours travel on."""
        async for chunk in self.queue.read(lease):
            for member in chunk:
                try:
                    line = self._line(member, built, self.intake.settings)
                    yield read_head(member.number, line)
                except RequestRejected as error:
                    await self._fail(lease, member, "invalid_request", str(error))

    async def _large_enough(self, lease: Lease, packs: list[Pack]) -> list[Pack]:
        small = {n for p in packs if len(p.numbers) < self.limits.minimum for n in p.numbers}
        if small:
            reason = f"the provider takes no batch below {self.limits.minimum} requests"
            async for chunk in self.queue.read(lease, as_ranges(sorted(small))):
                for member in chunk:
                    await self._fail(lease, member, "below_minimum", reason)
        return [p for p in packs if len(p.numbers) >= self.limits.minimum]

    async def _fail(self, lease: Lease, member: Member, code: str, reason: str) -> None:
        receipt = self._receipt(member, None)
        if receipt is not None:
            receipt.fail(Failure(RequestFailed, reason, code))
        logger.warning("request %d of %s cannot be sent: %s", member.number, lease.id, code)
        await self.queue.bury(lease, member.number, reason)

    # Lines

    def _line(self, member: Member, built: Built, settings: Any) -> bytes:
        if self.intake.builds:
            return built[member.number]
        if as_receipt(member.record) is not None:
            return bytes(member.element)
        return self.intake.finish(member.element, f"{self.queue.uid}-{member.number}", settings)

    async def _lines(
        self, lease: Lease, plan: Plan, members: Ranges, built: Built
    ) -> AsyncIterator[Sequence[bytes]]:
        async for chunk in self.queue.read(lease, members):
            yield [self._line(member, built, plan.settings) for member in chunk]

    def _receipt(self, member: Member, custom_id: str | None) -> Receipt[Any] | None:
        receipt = as_receipt(member.record)
        if receipt is not None:
            return receipt
        if custom_id is None:
            try:
                custom_id = decode(member.element)["custom_id"]
            except (ValueError, LookupError, TypeError):
                return None
        return self.find_receipt(str(custom_id))

    # Accepting

    async def _accept(
        self, handler: HandlerLike, lease: Lease, plan: Plan, part: PlanPart, built: Built
    ) -> None:
        custom_ids: list[str] = []
        receipts: dict[str, Receipt[Any]] = {}
        async for chunk in self.queue.read(lease, part.members):
            for member in chunk:
                line = self._line(member, built, plan.settings)
                custom_id = read_head(member.number, line).custom_id
                custom_ids.append(custom_id)
                receipt = self._receipt(member, custom_id)
                if receipt is not None and not receipt.settled:
                    receipt.custom_id = custom_id
                    receipts[custom_id] = receipt
        accepted = await handler.accept(
            Part(
                part.id,
                lease.id,
                self.queue.uid,
                part.members,
                part.endpoint or "",
                len(custom_ids),
                custom_ids,
                lambda: self._lines(lease, plan, part.members, built),
                receipts,
            )
        )
        if accepted in (Accepted.VOID, Accepted.OVERLAP):
            raise AnybatchError(
                f"the handler's store answers {accepted.value!r} to batch {part.id}; the interval "
                "stays in the queue"
            )

    # A user's `Batch` subclass that writes the lines itself

    async def _build(self, lease: Lease) -> Built:
        built: Built = {}
        members = [member async for chunk in self.queue.read(lease) for member in chunk]
        await self._build_some(lease, members, built)
        return built

    async def _build_some(self, lease: Lease, members: Sequence[Member], built: Built) -> None:
        """Build all in one call; what is refused is found by halving, and fails alone."""
        if not members:
            return
        requests = [decode(member.element) for member in members]
        try:
            lines = await run_sync(self._call_build, requests)
        except RequestRejected as error:
            if len(members) == 1:
                await self._fail(lease, members[0], "invalid_request", str(error))
                return
            half = len(members) // 2
            await self._build_some(lease, members[:half], built)
            await self._build_some(lease, members[half:], built)
            return
        built.update(zip((m.number for m in members), lines, strict=True))

    def _call_build(self, requests: list[Any]) -> list[bytes]:
        build: Any = getattr(self.intake.provider, "build")  # noqa: B009 (optional capability)
        lines: list[bytes] = build(requests, self.intake.settings, partial=self.intake.partial)
        if len(lines) != len(requests):
            raise RequestRejected(
                f"the Batch subclass wrote {len(lines)} lines for {len(requests)} requests; it has "
                "to write one for each, in their order"
            )
        return lines

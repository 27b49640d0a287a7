"""What was said and done, to seed a new connection with: OpenAI keeps nothing of a connection that is gone."""

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

MAX_ITEMS: Final = 400
MAX_CHARS: Final = 600_000
"""How much is kept, the oldest is let go first. A script counts with all of its text."""

Item = dict[str, Any]


class Conversation:
    """Items in order; a call and its output are one entry, so that neither is ever without the other."""

    def __init__(self) -> None:
        self._entries: deque[tuple[list[Item], int]] = deque()
        self._items = 0
        self._chars = 0

    def said_by_user(self, text: str) -> Item:
        """Add an input."""
        return self._add(
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}, chars=len(text)
        )[0]

    def said_by_model(self, text: str) -> None:
        """Add an answer."""
        content = [{"type": "output_text", "text": text}]
        self._add({"type": "message", "role": "assistant", "content": content}, chars=len(text))

    def called(self, call_id: str, name: str, arguments: str, output: str) -> Item:
        """Add a call with its output, and return the output's item."""
        call = {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
        result = {"type": "function_call_output", "call_id": call_id, "output": output}
        return self._add(call, result, chars=len(arguments) + len(output))[1]

    def __iter__(self) -> Iterator[Item]:
        for items, _ in self._entries:
            yield from items

    def _add(self, *items: Item, chars: int) -> list[Item]:
        self._entries.append((list(items), chars))
        self._items += len(items)
        self._chars += chars
        while (self._items > MAX_ITEMS or self._chars > MAX_CHARS) and len(self._entries) > 1:
            oldest, gone = self._entries.popleft()
            self._items -= len(oldest)
            self._chars -= gone
        return list(items)

"""Other faces of a chat request: APIs that are translated to chat completions and back, outside of the story.

What it is: Anthropic's Messages and OpenAI's Responses in front of `chat.py`.
Owns: the shapes of those two APIs, both ways.
Does not own: routing, money, and what a provider is sent.
Invariant: what can't be translated is refused with the field's name; nothing is dropped that would change an answer.
"""

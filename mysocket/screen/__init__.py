"""The session of a person at a terminal: what is typed, what is shown, and what one knows of the peer.

`prompt` is the only room that knows prompt_toolkit; `lines`, `own`, `status`, `commands` and `invitation` are pure.
"""

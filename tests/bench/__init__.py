"""`make bench`: what Parley costs beside the bare Claude Code CLI, measured on one machine in one go.

Both sides run the real CLI against the same offline scripted model, which answers without delay. The bare side
is driven by asyncio over pipes, without a sandbox; ours through a WebSocket of a whole stack that the benchmark
starts and stops. They take turns, so that what the machine does meanwhile hits both.
"""

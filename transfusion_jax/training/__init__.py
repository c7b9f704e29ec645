"""The sharded step, its loop, its state, and how the state survives."""

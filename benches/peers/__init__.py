"""Other engines and servers beside Shoal, on one machine, in one run.

Each engine is a child process that speaks the protocol of `child`, and all but the one that is asked block on their input.
For each shape they are asked in turn, again and again, so that a machine that slows down slows them all.

- `shapes`: what is computed, and how much work that is.
- `engines`: which engines there are, and how each is started.
- `child`: an engine's process, as the run sees it; `peer`: the same as the process itself sees it, with `runtimes` in it.
- `export`: the model in the formats that the runtimes read.
- `measure`: the turns; `report`: the tables.
- `model`: where the model is, and its size.
- `triton`: the same comparison over gRPC, with a server in place of each engine.

What runs in the parent needs only Python's own library, so that its tests need nothing installed:
`python3 -m unittest discover --start-directory benches/peers --top-level-directory benches`.
"""

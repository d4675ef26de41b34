"""What a run of any system is told and what it leaves: options, folder, checkpoints, progress and result.

`options` reads the command line of rank 0, `own_options` what every other rank believes of its own. `folder` is the
one writer of a run's files, `checkpointing` says when a checkpoint is written, `result` what result.json holds, and
`reading` reads a folder that may come from somebody else. `jobs` starts whole runs as child processes, each once.
"""

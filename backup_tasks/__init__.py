"""Backups of Linux servers to S3: every backup is one ordinary .tar.gz that stands alone.

Packages from the ground up; each may import those before it, and `errors`:

- `common`: ground that everything stands on: text, units, paths, small files, terminal, time
  zones
- `spools`: what does not fit into memory: records, numbers and tables that move to a temporary
  file
- `filesystem`: what Linux tells of file systems: mounts, ACLs, and when a change shows in a
  file's ctime
- `permissions`: who else may write what root is about to obey: files, and the folders on the way
  to them
- `keys`: keys and secrets: recipients and identities of age, Ed25519 signatures, passwords by
  reference
- `tables`: what every table of a profile is made of: a strict, frozen base, and types of values
- `format`: the bytes of an archive: tar headers, manifest, footer, signature, names, and their
  limits
- `stores`: where objects lie: a bucket or a folder, behind one Protocol (`base`), opened by
  `registry`
- `journal`: what a run did: its record, its lines in the log, what could not be stored, and locks
- `notify`: people and programs told of a run: channels, their tables, and whether anybody
  is to be told
- `profile`: TOML to a checked, frozen profile; every problem is told with its file and line
- `chunks`: raw chunks to stored ones and back: gzip, encryption, and reading ahead on all cores
- `snapshot`: what is on the server: walking the sources, describing entries, reading files
- `reuse`: which chunks of the previous backup stay: pure decisions, tried against a model
- `upload`: chunks and copied ranges put together into parts that S3 accepts
- `archive`: one archive laid out: entries into chunks, in which order, and the manifest behind
  them
- `read`: any archive opened and read: footer, manifest, signature, entries; ours or a plain
  .tar.gz
- `claim`: whose a prefix is, which backups are proven, what holds pruning, which clock is
  believed
- `census`: which backups a store has, which of them count, and the one that is meant
- `previous`: the previous backup as the next one uses it: its entries, its chunks, its versions
  of files
- `staging`: what an interrupted run leaves, so that the next one does not send it again
- `backup`: the job: scan, plan, write, commit, read back. `run_backup` reads from top to bottom
- `target`: files written below a folder, and nowhere else, even where other users may write
- `restore`: an archive, or a part of it, brought back: choose, check the target, extract, finish
- `verify`: a backup proven: every hash, a comparison with the sources, and drills in a temporary
  folder
- `prune`: what is deleted, and why the rest stays: retention, the guard before it, lifecycle
  rules
- `schedule`: runs at the times that profiles name: lines in a crontab, ours fenced from the
  others
- `command`: around every task: profile, store and lock; supervision of a run; and what is printed
"""

__version__ = "0.1.0"

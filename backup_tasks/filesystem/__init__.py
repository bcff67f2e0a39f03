"""Facts that Linux tells about file systems: mounts, ACLs, and when a change shows in a ctime.

In come paths and descriptors of this machine; out come facts about them. Below: `common`.
"""

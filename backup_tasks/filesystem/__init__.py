"""What Linux tells of file systems: mounts, ACLs, and when a change shows in a file's ctime.

In come paths and descriptors of this machine; out come facts about them. Below: `common`.
"""

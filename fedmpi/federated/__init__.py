"""What systems with clients share: a client's host hears what is trained, trains it, and reports at the end.

A host is a rank on which clients live; rank 0 is the server. `messages` holds the first and last words between them,
`serving` the life of a host, and `training` what the server does in every such system. `statistics` adds up what hosts
know of their rows under masks, `rows` says whose these are, and `judging` tries the model on rows that lie apart.
"""

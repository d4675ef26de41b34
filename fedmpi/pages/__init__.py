"""Tables, figures and the pieces of HTML that pages are made of.

Nothing here knows a protocol or where numbers come from: lists go in, Markdown, HTML, CSV and PNG files come out. What
is drawn for a paper stands in `fedmpi.reproduce`, for runs in `fedmpi.report`.
"""

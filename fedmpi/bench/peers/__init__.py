"""Other people's programs for the same work, a file for each, which its own Python runs as a script.

The peers of `fedmpi bench niss` import nothing of ours but `averaging`, which says what is to be trained, so that they
run where fedmpi is not installed. A file here must not have the name of a package that one of them imports.
"""

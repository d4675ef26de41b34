"""Attacks on what each role of a run received, and one table of what came of them.

A run that was made with ``--record-views`` keeps what every rank received. The audit reads those views, makes every
attack that applies to the system, and states for each what the protocol claims and what was found.

========================  ============================================================================================
`recording.Recorded`      a run folder with views: who received what, in which order
`applicability`           system → the attacks that apply
`uploads`                 a server against one client's upload; `clients` reads these from the views
`models`                  a client of PBPFL against the model
`members`                 anybody who has the final model: was a row trained on?
`colluders`               T workers of codedml, with Lagrange codes, BGW and BH08; `recombination` of their shares
`partners`                the server of NISS with all other clients; `coalitions` with some of them
`servers`                 S1, S2, and both together, of PPADMM; `lying_s1`, which lies to participants
`liars`                   a tracker of NISS that lies, and a master of codedml that asks for what it likes
`canaries`                a lower bound on each ε that is printed; `bounds` is how it follows from guesses
`statistics`              χ² tests on what was seen
`campaign`                the runs that ``fedmpi audit --all`` makes
`report`                  the table, the pictures
========================  ============================================================================================

An adversary uses what its ranks received and what is public. The judge, who says how good it was, loads the data.
"""

"""Good logs of real jobs made bad in every way we could think of, each with the step at which verification must fail.

story.py      logs read into lists of entries and marks, changed, and written again: by whose hands, decides what is signed anew
telling.py    what several changes need: a message at both ends, a step told anew, a job under another specification
theft.py      kinds of hands that have no key: files are changed after they were signed
rewriting.py  kinds of owners that write their past anew, alone or together
choosing.py   kinds of lies about how customers are matched
lies.py       kinds of owners that lied from the beginning: what they wrote was cosigned as it was
steps.py, disclosing.py   the same, about the protocol's order, and about bounds and disclosures
kinds.py      the table of them all
corpus.py     makes the bad logs of a folder; ``python -m tests.tampering LOGS... --keys FOLDERS... --output DIR``
"""

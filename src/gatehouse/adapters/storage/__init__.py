"""What is kept: the journal, and SQL for everything an operator may ask later.

Workers import `journal` only, which needs neither SQLAlchemy nor any other module of this room but `_frames`.
"""

"""What is kept: the journal, and SQL for everything an operator may ask later."""

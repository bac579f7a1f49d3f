"""Wrong input of every kind, made up by Hypothesis: ``python -m tests.fuzz``, or ``make fuzz``.

Whatever is read, the program either goes on or says in one of its own errors which file or setting
is wrong (:func:`spnet_d2.errors.is_users`): no other exception, no endless loop, no memory without
bounds, and no word-less nonsense where the numbers tell.
"""

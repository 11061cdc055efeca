"""A hostile vendor over HTTP, one file for each attack: nothing beyond its grant, and no 5xx.

What is hidden from it has the word ``planted`` in every value, so that an answer which holds any of it is known by that.
"""

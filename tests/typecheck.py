"""The checker that jaxtyping calls for every annotated function, in tests only."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int serves as a float

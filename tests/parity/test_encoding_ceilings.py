"""Ceilings of encoding models against their closed forms."""

from fixtures import each, load

from neurofm.encoding import ceiling


@each("encoding_models", keys=("ceiling::repeats", "ceiling::*"))
def test_ceilings_are_their_closed_forms(path, close):
    f = {k.split("::")[1]: v for k, v in load(path).items() if "ceiling::" in k}
    repeats, guess = close.of(f["repeats"], f["pred"])
    ev = ceiling.explainable_variance(repeats)
    close(ev, f["explainable_variance_zscored"])
    close(ceiling.leave_one_out_r(repeats), f["leave_one_out_r"])
    close(ceiling.signal_power(repeats), f["signal_power"])
    close(ceiling.cc_abs(guess, repeats), f["cc_abs"])
    close(ceiling.cc_max(repeats), f["cc_max"])
    close(ceiling.cc_norm(guess, repeats), f["cc_norm"])
    close(ceiling.cc_norm(guess, repeats), f["cc_norm_direct"])

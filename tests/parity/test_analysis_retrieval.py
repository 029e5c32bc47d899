"""Retrieval, zero-shot classification and matching losses against slow loops."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import each, load

from neurofm.analysis import retrieval, zero_shot
from neurofm.eval import resampling
from neurofm.objectives.contrastive import match_loss


def same(ours, reference):
    np.testing.assert_allclose(ours, reference, rtol=1e-8, atol=1e-10)


def check_scores(f, prefix, found):
    keys = [k for k in f if k.startswith(prefix) and k.removeprefix(prefix) in found]
    assert len(keys) > 4
    for key in keys:
        same(found[key.removeprefix(prefix)], f[key])


@each("analysis", keys=("query", "gallery", "gallery_segment_id", "rank"))
def test_segments_are_found_as_in_the_reference(path):
    f = load(path)
    merged = retrieval.merged(f["gallery_segment_id"])
    np.testing.assert_array_equal(merged, f["merged_gallery_rows"])
    similarity = retrieval.cosine(f["query"], f["gallery"][merged])
    same(similarity, f["similarity"])
    ids = f["gallery_segment_id"][merged]
    rank = retrieval.ranks(similarity, retrieval.targets(f["target_segment_id"], ids))
    np.testing.assert_array_equal(rank, f["rank"])
    check_scores(f, "score::", retrieval.scores(rank, len(merged)))
    same(
        retrieval.two_v_two(f["two_v_two::target"], f["two_v_two::prediction"]),
        f["two_v_two::accuracy"],
    )
    group, drawn = f["bootstrap::group_of_query"], f["bootstrap::group_indices"]
    (key,) = (k for k in f if re.fullmatch(r"bootstrap::top[\d_]+", k))
    ks = [int(k) for k in key.removeprefix("bootstrap::top").split("_")]
    hits = rank[:, None] <= np.array(ks)
    scores = resampling.bootstrap(lambda rows: hits[rows].mean(0), group, drawn)
    same(scores, f[key])
    same(resampling.percentiles(scores), f["bootstrap::interval_2.5_97.5"])


@each("analysis", keys=("exact::similarity", "exact::rank"))
def test_whole_number_similarities_tie_everywhere(path):
    f = load(path)
    rank = retrieval.ranks(f["exact::similarity"], f["exact::target"])
    np.testing.assert_array_equal(rank, f["exact::rank"])
    n = f["exact::similarity"].shape[1]
    check_scores(f, "exact::score::", retrieval.scores(rank, n))


@each("analysis", keys=("multi::relevant", "multi::ap_ties"))
def test_several_relevant_items_rank_as_in_the_reference(path):
    f = {k.removeprefix("multi::"): v for k, v in load(path).items()}
    for ties in ("ties", "no_ties"):
        similarity = f[f"similarity_{ties}"]
        precision = retrieval.average_precision(similarity, f["relevant"])
        same(precision, f[f"ap_{ties}"])
        same(precision.mean(), f[f"map_{ties}"])
        for key in f:
            if found := re.fullmatch(rf"ndcg(\d+)_{ties}", key):
                got = retrieval.ndcg(similarity, f["relevant"], int(found[1]))
                same(got, f[key])


zero = each("analysis", keys=("audio", "text_templates", "logit_scale_log"))


@zero
def test_classes_are_told_by_their_texts_as_in_the_reference(path):
    f = load(path)
    text = zero_shot.class_embeddings(f["text_templates"])
    same(text, f["text_class_embeddings"])
    logits = zero_shot.logits(f["audio"], text, float(np.exp(f["logit_scale_log"])))
    same(logits, f["logits"])
    np.testing.assert_array_equal(logits.argmax(1), f["predicted"])
    found = zero_shot.accuracy(logits, f["labels"], (1, 3))
    same([found["top1"], found["top3"]], [f["accuracy"], f["top3"]])
    one = zero_shot.logits(f["audio"], f["text_templates"][:, 0])
    found = zero_shot.accuracy(one, f["labels"])
    same(found["top1"], f["accuracy_first_template_only"])
    cosines = zero_shot.logits(f["audio"], text)
    precision = zero_shot.class_precision(cosines, f["multilabel::targets"])
    same(precision, f["multilabel::ap_per_class"])
    same(precision.mean(), f["multilabel::map"])


@zero
def test_captions_are_retrieved_both_ways_as_in_the_reference(path):
    f = load(path)
    text, clip = f["captions::text"], f["captions::clip_of_caption"]
    similarity = retrieval.cosine(text, f["audio"])
    np.testing.assert_array_equal(
        retrieval.ranks(similarity, clip), f["captions::text_to_audio_rank"]
    )
    own = clip[:, None] == np.arange(len(f["audio"]))
    np.testing.assert_array_equal(
        zero_shot.best_rank(similarity.T, own.T),
        f["captions::audio_to_text_rank_of_best"],
    )
    for way, found in zero_shot.captions(f["audio"], text, clip).items():
        check_scores(f, f"captions::{way}::", found)


@zero
@pytest.mark.parametrize("x64", [True, False])
def test_matching_losses_are_those_of_torch(path, x64):
    f = load(path)
    _, first = np.unique(f["captions::clip_of_caption"], return_index=True)
    audio, text = f["audio"], f["captions::text"][first]
    with jax.enable_x64(x64):
        audio, text = jnp.asarray(audio), jnp.asarray(text)
        scale = float(np.exp(f["logit_scale_log"]))
        forth = match_loss(audio, text, scale).mean()
        back = match_loss(text, audio, scale).mean()
        raw = match_loss(audio, text, normalize_query=False).mean()
        got = [float(x) for x in (forth, back, (forth + back) / 2, raw)]
    names = ("audio_to_text", "text_to_audio", "symmetric")
    names += ("query_raw_candidates_normalised_one_way",)
    rtol = 1e-8 if x64 else 1e-4
    np.testing.assert_allclose(got, [f[f"loss::{n}"] for n in names], rtol=rtol)

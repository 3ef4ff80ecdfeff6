"""Cox's likelihood against lifelines and against its formula; what is exact in a federation, and what is not."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from polyclinic import Experiment, FedAverage, TorchTrainingPlan, simulate
from polyclinic.datasets.cox import BaselineHazard, CoxLoss
from polyclinic.datasets.fed_tcga_brca import BaselineLoss
from polyclinic.errors import ConfigError, TrainingError
from polyclinic.metrics import get_metric, survival_times

HORIZON = 100.0


class CoxPlan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = torch.nn.Linear(3, 1, bias=False)
        self.hazard = BaselineHazard(100.0)
        self.loss = CoxLoss()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, x, y):
        scores = self.model(x)
        self.hazard.observe(scores, y)
        return self.loss(scores, y)

    def predict(self, x):
        return self.hazard.survival(self.model(x))


def cohort(seed=0, n=120, *, tied=True, scale=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    died, seen = scale * rng.exponential(40 * np.exp(-x @ [0.8, -0.5, 0.0])), rng.exponential(80, n)
    time = np.minimum(died, seen)
    time = np.ceil(time / 4) * 4 if tied else time
    return torch.tensor(x), torch.tensor(np.stack([died <= seen, time], axis=1).astype(float))


def frame(x, y, **columns):
    return pd.DataFrame(x.numpy(), columns=["a", "b", "c"]).assign(E=y[:, 0].numpy(), T=y[:, 1].numpy(), **columns)


def by_formula(scores, y, ties):
    """The sums of the module's text, one event time after the other, in plain numpy."""
    s, event, time = scores.numpy().ravel(), y[:, 0].numpy() == 1, y[:, 1].numpy()
    total = 0.0
    for t in np.unique(time[event]):
        dead, watched = np.flatnonzero(event & (time == t)), time >= t
        for number, i in enumerate(dead):
            part = number / len(dead) if ties == "efron" else 0.0
            total += math.log(np.exp(s[watched]).sum() - part * np.exp(s[dead]).sum()) - s[i]
    return total / len(s)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_its_formula_and_the_gradient_that_of_finite_differences(ties, tied):
    x, y = cohort(tied=tied)
    scores = (x @ torch.tensor([[0.3], [0.2], [-1.0]], dtype=torch.float64)).requires_grad_()
    loss = CoxLoss(ties)(scores, y)
    assert loss.item() == pytest.approx(by_formula(scores.detach(), y, ties), rel=1e-12)
    assert torch.autograd.gradcheck(lambda s: CoxLoss(ties)(s, y[:15]), scores[:15].detach().requires_grad_())


def test_efrons_is_the_likelihood_of_lifelines_and_its_optimum_ours():
    lifelines = pytest.importorskip("lifelines")
    x, y = cohort()
    fitted = lifelines.CoxPHFitter().fit(frame(x, y), "T", "E", fit_options={"precision": 1e-12})
    weights = torch.tensor(fitted.params_.to_numpy(), requires_grad=True)
    loss = CoxLoss("efron")(x @ weights, y)
    assert -len(y) * loss.item() == pytest.approx(fitted.log_likelihood_, rel=1e-10)
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.abs().max() < 1e-6


def test_with_strata_it_is_the_stratified_likelihood_of_lifelines_and_a_sum_over_centers():
    lifelines = pytest.importorskip("lifelines")
    x, y = cohort()
    center = torch.arange(len(y)) % 3
    fitted = lifelines.CoxPHFitter(strata=["s"]).fit(frame(x, y, s=center.numpy()), "T", "E")
    scores = x @ torch.tensor(fitted.params_.to_numpy())
    loss = CoxLoss()(scores, y, strata=center)
    assert -len(y) * loss.item() == pytest.approx(fitted.log_likelihood_, rel=1e-9)
    parts = [(center == k).sum() * CoxLoss()(scores[center == k], y[center == k]) for k in range(3)]
    assert loss.item() == pytest.approx(float(sum(parts)) / len(y), rel=1e-12)
    assert loss.item() < CoxLoss()(scores, y).item()  # fewer patients to compare with


def test_without_ties_both_ways_and_the_loss_of_the_suite_are_the_same():
    x, y = cohort(tied=False)
    losses = [loss(x[:, :1], y).item() for loss in (CoxLoss("efron"), CoxLoss("breslow"), BaselineLoss())]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_extreme_scores_and_ties_stay_finite(ties, dtype):
    y = torch.tensor([[1, 5.0], [1, 5.0], [1, 5.0], [0, 9.0]], dtype=dtype)
    scores = torch.tensor([[-400.0], [400.0], [400.0], [-400.0]], dtype=dtype, requires_grad=True)
    loss = CoxLoss(ties)(scores, y)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_a_batch_without_an_event_teaches_nothing(ties):
    scores = torch.randn(4, 1, requires_grad=True, generator=torch.Generator().manual_seed(0))
    loss = CoxLoss(ties)(scores, torch.tensor([[0.0, 1.0]] * 4))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.abs().sum() == 0


def test_bad_input_says_what_to_do():
    with pytest.raises(ConfigError, match="no way to treat ties called 'exact'"):
        CoxLoss("exact")
    with pytest.raises(TrainingError, match=r"scores have shape \(3, 1\) and targets \(3, 3\)"):
        CoxLoss()(torch.zeros(3, 1), torch.zeros(3, 3))
    with pytest.raises(TrainingError, match="neither 0 nor 1") as caught:
        CoxLoss()(torch.zeros(2, 1), torch.tensor([[300.0, 1.0], [20.0, 0.0]]))
    assert "300" not in str(caught.value)


# ---- in a federation


def federate(parts, tmp_path, weights="num_samples", rounds=1):
    """Rounds of one full-cohort step at each node; the experiment, and the first and the last weights."""
    nodes = {f"n{k}": TensorDataset(x.float(), y.float()) for k, (x, y) in enumerate(parts)}
    experiment = Experiment(
        CoxPlan, federation=simulate({name: (data, data) for name, data in nodes.items()}), round_limit=rounds,
        training_args={"batch_size": 1000, "lr": 0.5, "num_updates": 1}, aggregator=FedAverage(weights=weights),
        observers=[], folder=tmp_path / f"run-{weights}",
    )  # fmt: skip
    first = experiment.model().weight.detach().clone()
    experiment.run()
    return experiment, first, experiment.model().weight.detach()


def pooled_step(first, parts, *, stratified):
    x, y = (torch.cat(tensors).float() for tensors in zip(*parts, strict=True))
    center = torch.cat([torch.full((len(y),), k) for k, (_, y) in enumerate(parts)])
    weight = first.clone().requires_grad_()
    loss = CoxLoss()(x @ weight.T, y, strata=center if stratified else None)
    (gradient,) = torch.autograd.grad(loss, weight)
    return first - 0.5 * gradient


def test_a_full_cohort_step_averaged_by_samples_is_a_step_on_the_pooled_stratified_likelihood(tmp_path):
    # Centers of different size, and of different baseline hazard: what strata are for.
    parts = [cohort(1, 30), cohort(2, 80, scale=3.0), cohort(3, 50, scale=0.5)]
    _, first, found = federate(parts, tmp_path)
    torch.testing.assert_close(found, pooled_step(first, parts, stratified=True), rtol=0, atol=1e-6)
    # It is not the step on the likelihood of one pooled cohort, and equal weights for centers are not right either.
    assert (found - pooled_step(first, parts, stratified=False)).abs().max() > 1e-3
    _, first, other = federate(parts, tmp_path, weights="uniform")
    assert (other - pooled_step(first, parts, stratified=True)).abs().max() > 1e-3


def test_federated_training_finds_the_optimum_of_the_stratified_likelihood(tmp_path):
    lifelines = pytest.importorskip("lifelines")
    parts = [cohort(1, 60), cohort(2, 80, scale=3.0)]
    _, _, found = federate(parts, tmp_path, rounds=60)
    everybody = pd.concat([frame(x, y, s=k) for k, (x, y) in enumerate(parts)])
    fitted = lifelines.CoxPHFitter(strata=["s"]).fit(everybody, "T", "E")
    np.testing.assert_allclose(found[0], fitted.params_, atol=2e-3)


# ---- baseline hazard


def test_the_hazard_is_breslows_where_nobody_else_leaves_within_a_bin():
    scores = torch.tensor([0.3, -0.2, 0.9, 0.0, 1.0], dtype=torch.float64)
    y = torch.tensor([[1, 10.0], [0, 25.0], [1, 50.0], [1, 90.0], [0, 120.0]], dtype=torch.float64)
    hazard = BaselineHazard(HORIZON)
    hazard.observe(scores, y)
    r = scores.exp()
    steps = [1 / r.sum(), 1 / r[2:].sum(), 1 / r[3:].sum()]
    times = survival_times(HORIZON)
    expected = [float(sum(step for step, t in zip(steps, (10, 50, 90), strict=True) if t <= at)) for at in times]
    np.testing.assert_allclose(hazard.cumulative(), expected, rtol=1e-12)
    curves = hazard.survival(scores[:2, None])
    np.testing.assert_allclose(curves[1], np.exp(-np.array(expected) * math.exp(-0.2)), rtol=1e-12)


def test_the_hazard_is_near_that_of_lifelines():
    lifelines = pytest.importorskip("lifelines")
    x, y = cohort(4, 400, tied=False)
    fitted = lifelines.CoxPHFitter().fit(frame(x, y), "T", "E")
    hazard = BaselineHazard(HORIZON)
    hazard.observe(x @ torch.tensor(fitted.params_.to_numpy()), y)
    # lifelines' baseline is that of the mean patient.
    theirs = fitted.baseline_cumulative_hazard_["baseline cumulative hazard"]
    at_times = [theirs[theirs.index <= t].iloc[-1] for t in survival_times(HORIZON)]
    theirs = np.array(at_times) * math.exp(-float(fitted.params_ @ x.numpy().mean(axis=0)))
    assert hazard.cumulative().numpy() == pytest.approx(theirs, rel=0.06)
    assert (hazard.cumulative().numpy() <= theirs * (1 + 1e-9)).all()


def test_averaged_over_nodes_by_samples_the_hazard_is_that_of_all_together(tmp_path):
    parts = [cohort(1, 30), cohort(2, 80)]
    experiment, first, _ = federate(parts, tmp_path)
    x, y = (torch.cat(tensors).float() for tensors in zip(*parts, strict=True))
    pooled = BaselineHazard(HORIZON)
    pooled.observe(x @ first.T, y)  # of the weights that the round began with
    plan = CoxPlan({})
    plan.load_state_dict(experiment._state)
    np.testing.assert_allclose(plan.hazard.cumulative(), pooled.cumulative(), rtol=1e-6)


def test_one_predict_serves_concordance_auc_and_brier(tmp_path):
    parts = [cohort(1, 150, tied=False), cohort(2, 200, tied=False)]
    experiment, *_ = federate(parts, tmp_path, rounds=40)
    names = ["concordance_index", "time_dependent_auc@100", "integrated_brier@100"]
    evaluation = experiment.evaluate(metrics=names)
    assert list(evaluation.pooled) == names
    concordance, auc, brier = (evaluation.pooled[name] for name in names)
    assert concordance.value > 0.65
    assert auc.value > 0.7
    assert brier.value < 0.2
    assert 0 < max(auc.error_bound, brier.error_bound) < 0.05
    # With everything in one place, without bins, the value is within the bound.
    plan = CoxPlan({})
    plan.load_state_dict(experiment._state)
    x, y = (torch.cat(tensors).float() for tensors in zip(*parts, strict=True))
    with torch.no_grad():
        curves = plan.predict(x).numpy()
    for name in names[1:]:
        metric = get_metric(name)
        exact = metric.value(metric.rows(y.numpy(), curves))
        assert abs(evaluation.pooled[name].value - exact) <= evaluation.pooled[name].error_bound + 1e-9


def test_a_hazard_that_has_seen_nobody_promises_life():
    assert (BaselineHazard(HORIZON).survival(torch.zeros(2, 1)) == 1).all()


def test_the_hazard_learns_nothing_from_test_data(tmp_path):
    hazard = BaselineHazard(HORIZON).eval()
    x, y = cohort()
    hazard.observe(x[:, :1], y)
    assert hazard.events.sum() == 0
    experiment, *_ = federate([cohort(1, 50), cohort(2, 60)], tmp_path)
    name = "integrated_brier@100"
    alone, with_loss = (experiment.evaluate(metrics=metrics) for metrics in ([name], ["loss", name]))
    assert alone.pooled[name] == with_loss.pooled[name]


def test_on_the_real_table_the_likelihood_is_that_of_lifelines(shared):
    lifelines = pytest.importorskip("lifelines")
    from polyclinic.datasets.fed_tcga_brca import FEATURES, FedTcgaBrca

    path = shared / "data" / "flamby_meta" / "fed_tcga_brca"
    parts = [FedTcgaBrca(center=k, data_path=path, dtype=torch.float64).tensors for k in range(6)]
    # Three columns that are not copies of others; ages in years, as they stand.
    columns = [FEATURES.index(name) for name in ("age_at_index", "ajcc_pathologic_n_N1", "ajcc_pathologic_t_T3")]
    x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    x, center = x[:, columns], torch.repeat_interleave(torch.arange(6), torch.tensor([len(y) for _, y in parts]))
    for strata in (None, center):
        extra = {} if strata is None else {"s": strata.numpy()}
        fitted = lifelines.CoxPHFitter(strata=list(extra) or None).fit(frame(x, y, **extra), "T", "E")
        scores = x @ torch.tensor(fitted.params_.to_numpy())
        assert -len(y) * CoxLoss()(scores, y, strata=strata).item() == pytest.approx(fitted.log_likelihood_, rel=1e-9)

"""When are workers told of new requests?"""

from gateway.speculation.worker_use import WorkerUse


def test_what_was_never_seen_is_expected_to_draft() -> None:
    use = WorkerUse()
    assert all(use.pays(count) for count in (1, 2, 16, 1000))


def test_what_is_learned_holds_for_batches_of_that_size_and_for_larger_ones_never_seen() -> None:
    use = WorkerUse()
    for _ in range(20):
        use.observe(4, 0.0)
    assert use.pays(3) and not use.pays(4) and not use.pays(7) and not use.pays(100)
    for _ in range(20):
        use.observe(100, 1.0)
    assert not use.pays(7) and use.pays(100)


def test_it_follows_slowly() -> None:
    use = WorkerUse()
    use.observe(1, 0.0)
    assert use.pays(1)
    for _ in range(20):
        use.observe(1, 0.0)
    assert not use.pays(1)
    for _ in range(20):
        use.observe(1, 1.0)
    assert use.pays(1)


def test_what_did_not_pay_is_tried_again_after_a_long_rest() -> None:
    use = WorkerUse()
    use.rest(16)
    assert use.pays(16), "one step proves nothing"
    steps = 1
    while not use.pays(16) or steps < 20:
        use.rest(16)
        steps += 1
    assert 1000 < steps < 10_000
    use.told()
    assert not use.pays(16)

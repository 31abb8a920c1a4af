def ending_nll(logits, tokens, mask):
    log_p = logits[:, :-1].log_softmax(-1)
    nll = -log_p.gather(2, tokens[:, 1:, None])[..., 0] * mask[:, 1:]
    return nll.sum(1), nll.sum(1) / mask.sum(1)


def answers(sums, means):
    return sums.argmin().item(), means.argmin().item()

def addition_line(a, b, digits):
    answer = f"{a + b:0{digits + 1}d}"
    return f"{a:0{digits}d}+{b:0{digits}d}={answer[::-1]}"


def masked_targets(ids, equals):
    idx, targets = ids[:, :-1], ids[:, 1:]
    is_answer = (idx == equals).cumsum(1) > 0
    return idx, targets.masked_fill(~is_answer, -1)

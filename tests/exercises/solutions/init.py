import torch


@torch.no_grad()
def init_weights(model, generator):
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            p.zero_()
        elif p.dim() == 1:
            p.fill_(1.0)
        else:
            std = 0.02
            if name.endswith("c_proj.weight"):
                std /= (2 * model.cfg.n_layer) ** 0.5
            p.normal_(0.0, std, generator=generator)

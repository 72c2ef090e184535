"""The papers' losses of `pytorch_steps.py`, as plain as their formulas."""

import math

import torch
import torch.nn.functional as F


def log_evidence_probs(logits, gamma):
    """log of (exp(o) + gamma) / sum (exp(o) + gamma); section 2.1 of DPC."""
    log_alpha = torch.logaddexp(logits, torch.tensor(math.log(gamma)))
    return log_alpha - torch.logsumexp(log_alpha, -1, keepdim=True)


def dirichlet_kl(alpha):
    """KL(Dir(alpha) || Dir(1)), `[B]`."""
    total = alpha.sum(-1)
    inner = (alpha - 1) * (torch.digamma(alpha) - torch.digamma(total)[:, None])
    kl = torch.lgamma(total) - math.lgamma(alpha.shape[-1]) - torch.lgamma(alpha).sum(-1)
    return kl + inner.sum(-1)


def evidential(logits, labels, gamma, beta):
    """DPC's loss `[B]` of given labels."""
    nll = -log_evidence_probs(logits, gamma).gather(1, labels[:, None])[:, 0]
    wrong = 1 - F.one_hot(labels, logits.shape[-1])
    alpha = 1 + wrong * torch.exp(logits) / gamma
    return nll + beta * dirichlet_kl(alpha) / logits.shape[-1]


def kl_rows(weak, strong):
    """KL(weak || strong) of softmaxes, weak without gradient, `[B]`."""
    log_p = F.log_softmax(weak.detach(), -1)
    return (log_p.exp() * (log_p - F.log_softmax(strong, -1))).sum(-1)


def balance(probs):
    return -torch.log(probs.mean(0).clamp_min(1e-4)).mean()


def positive_loss(weak, strong, labels, u, v, weights, noise_rate):
    """BLDR's loss of the positive head and of the exits."""
    given = F.one_hot(labels, weak.shape[-1]).to(weak.dtype)
    on = (u**2 * given).clamp(0, 1 - 1e-4)
    off = (v**2 * (1 - given)).clamp(0, 1 - 1e-4)
    q = (F.softmax(weak, -1) + on - off.detach()).clamp_min(1e-4)
    q = (q / q.sum(-1, keepdim=True)).clamp_min(1e-4)
    ce = -(weights * torch.log(q.gather(1, labels[:, None])[:, 0])).mean()
    hard = F.one_hot(weak.argmax(-1), weak.shape[-1]).to(weak.dtype)
    mse = ((hard + on.detach() - off - given) ** 2).sum(-1).mean()
    consistency = kl_rows(weak, strong).mean()
    return ce + 50 * noise_rate**2 * mse + 0.1 * balance(q) + 0.9 * consistency


def negative_loss(weak, strong, mask, weights):
    p = F.softmax(weak, -1)
    pushed = -(mask * torch.log((1 - p).clamp_min(1e-5))).sum(-1)
    return (weights * pushed).mean() + 0.1 * balance(p) + 0.9 * kl_rows(weak, strong).mean()


def bldr_objective(first, again, features, labels, u, v, weights, noise_rate):
    weak, strong = first.chunk(2)
    top = again[:, 1].argmax(-1)
    mask = (1 - F.one_hot(labels, weak.shape[-1])) * (1 - F.one_hot(top, weak.shape[-1]))
    loss = negative_loss(weak[:, 1], strong[:, 1], mask, weights)
    teacher = F.softmax((again[:, 0] + again[:, 1]).detach() / 6, -1)
    for head in (0, *range(2, first.shape[1])):
        args = (weak[:, head], strong[:, head], labels, u, v, weights, noise_rate)
        loss = loss + positive_loss(*args)
        if head:
            log_q = F.log_softmax(again[:, head] / 3, -1)
            loss = loss - 0.1 * 9 * (teacher * log_q).sum(-1).mean()
            target = features[0].detach()
            counts = (features[head - 1] > 0) | (target > 0)
            loss = loss + 1e-6 * ((features[head - 1] - target) ** 2 * counts).sum()
    return loss


def group_mean(values, chosen):
    return (values * chosen).sum() / chosen.sum().clamp_min(1)


def dcfs_objective(heads, labels, anneal, lambda_unk=1.0, lambda_dis=1.0):
    """DCFS's loss; label K is "unknown"."""
    num_classes = heads[0].shape[-1]
    known, unknown = labels < num_classes, labels == num_classes
    given = F.one_hot(labels.clamp_max(num_classes - 1), num_classes)
    loss, probs = 0.0, []
    for logits in heads:
        alpha = torch.exp(logits.clamp(-10, 10)) + 1
        total = alpha.sum(-1)
        nll = torch.log(total) - torch.log((alpha * given).sum(-1))
        misleading = dirichlet_kl(given + (1 - given) * alpha) / num_classes
        flat = dirichlet_kl(alpha) / num_classes
        loss = loss + 0.5 * group_mean(nll + anneal * misleading, known)
        loss = loss + 0.5 * lambda_unk * anneal * group_mean(flat, unknown)
        probs.append(alpha / total[:, None])
    distance = 0.5 * (probs[0] - probs[1]).abs().sum(-1)
    return loss + lambda_dis * (group_mean(distance, known) - group_mean(distance, unknown))


def binary_kl_norm(student, teacher, temperature=2.0):
    """DHKD's logit loss, T^2 / N sum log cosh((s - t) / 2T)."""
    a = (student - teacher).abs() / (2 * temperature)
    return temperature**2 * (a + torch.log1p(torch.exp(-2 * a)) - math.log(2)).sum(-1).mean()


def structural_distance(student, teacher):
    """L2D's loss of one group `[G, D]`."""

    def scaled(e):
        # By differences: of embeddings that are nearly equal a product loses all digits.
        d2 = ((e[:, None] - e[None]) ** 2).sum(-1)
        d = d2.clamp_min(1e-12).sqrt() * (1 - torch.eye(len(e)))
        return d / (d.sum() / (len(e) * (len(e) - 1)))

    return F.huber_loss(scaled(student), scaled(teacher), reduction="sum") / len(student)


def l2d_objective(logits, embeddings, teacher_logits, teacher_embeddings, targets):
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    p = torch.sigmoid(teacher_logits)
    own = F.binary_cross_entropy_with_logits(teacher_logits, p, reduction="none")
    other = F.binary_cross_entropy_with_logits(logits, p, reduction="none")
    mld = (other - own).sum() / len(logits)
    groups = []
    for axis in (1, 0):  # of a class, of an image
        y = targets.T if axis else targets
        pairs = [e.transpose(0, 1) if axis else e for e in (embeddings, teacher_embeddings)]
        chosen = [row.bool() for row in y]
        groups.append(
            sum(
                structural_distance(s[row], t[row])
                for s, t, row in zip(*pairs, chosen, strict=True)
                if row.sum() >= 2
            )
        )
    return bce + 10 * mld + 100 * groups[0] + 1000 * groups[1]

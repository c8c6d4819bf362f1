"""Statements of the bounds in LaTeX, by name, for the reference."""

from __future__ import annotations

#: Name of a bound → its statement. The tests compare it with the statement in plain text.
STATEMENTS = {
    "performance difference": (
        r"J(\pi_{\text{new}}) - J(\pi) = \frac{E_{d^{\pi_{\text{new}}}}[a_{\text{new}}]}{1 - "
        r"\gamma}"
    ),
    "CPI": (
        r"\text{gain}(\alpha) \ge \frac{\alpha}{1 - \gamma} \left( \mathbb{A} - \frac{2 \alpha "
        r"\gamma \varepsilon}{1 - \gamma (1 - \alpha)} \right)"
    ),
    "CPI, span form": (
        r"\text{gain}(\alpha) \ge \frac{\alpha}{1 - \gamma} \left( \mathbb{A} - \frac{\alpha "
        r"\gamma \Delta}{1 - \gamma (1 - \alpha)} \right)"
    ),
    "CPI step": (
        r"\text{gain} \ge \frac{(1 - \gamma) \mathbb{A}^2}{8 R} \quad\text{at}\quad \alpha = "
        r"\frac{(1 - \gamma)^2 \mathbb{A}}{4 R}"
    ),
    "safe policy iteration": (
        r"J(\pi_{\text{new}}) - J(\pi) \ge \left( E_d[a_{\text{new}}] - \frac{\gamma D "
        r"\operatorname{span}(a_{\text{new}})}{2 (1 - \gamma)} \right) / (1 - \gamma)"
    ),
    "safe policy iteration, value form": (
        r"J(\pi_{\text{new}}) - J(\pi) \ge \left( E_d[a_{\text{new}}] - \frac{\gamma D^2 \lVert Q "
        r"\rVert_\infty}{2 (1 - \gamma)} \right) / (1 - \gamma)"
    ),
    "USPI step": (
        r"\text{gain} \ge \frac{\mathbb{A}^2}{2 \gamma D^\prime \Delta} \quad\text{at}\quad "
        r"\alpha = \frac{(1 - \gamma) \mathbb{A}}{\gamma D^\prime \Delta}, "
        r"\quad\text{or the full step's bound if that is} > 1"
    ),
    "TRPO, TV form": (
        r"J(\pi_{\text{new}}) - J(\pi) \ge \frac{E_d[a_{\text{new}}]}{1 - \gamma} - \frac{4 "
        r"\gamma \max \lvert A \rvert \max_s \operatorname{TV}^2}{(1 - \gamma)^2}"
    ),
    "TRPO, KL form": (
        r"J(\pi_{\text{new}}) - J(\pi) \ge \frac{E_d[a_{\text{new}}]}{1 - \gamma} - \frac{4 "
        r"\gamma \max \lvert A \rvert \max_s \operatorname{KL}(\pi \| \pi_{\text{new}})}{(1 - "
        r"\gamma)^2}"
    ),
    "TRPO, KL form by Pinsker": (
        r"J(\pi_{\text{new}}) - J(\pi) \ge \frac{E_d[a_{\text{new}}]}{1 - \gamma} - \frac{2 "
        r"\gamma \max \lvert A \rvert \max_s \operatorname{KL}(\pi \| \pi_{\text{new}})}{(1 - "
        r"\gamma)^2}"
    ),
    "TRPO, KL form of trajectories": (
        r"J(\pi_{\text{new}}) - J(\pi) \ge \frac{E_d[a_{\text{new}}]}{1 - \gamma} - \frac{2 "
        r"\gamma \max \lvert A \rvert \max_s \operatorname{KL}(\pi \| \pi_{\text{new}})}{(1 - "
        r"\gamma)^{3/2}}"
    ),
    "CPO": (
        r"J(\pi_{\text{new}}) - J(\pi) \ge \left( E_d[a_{\text{new}}] - \frac{2 \gamma \max "
        r"\lvert a_{\text{new}} \rvert E_d[\operatorname{TV}]}{1 - \gamma} \right) / (1 - \gamma)"
    ),
    "CPO, span form": (
        r"J(\pi_{\text{new}}) - J(\pi) \ge \left( E_d[a_{\text{new}}] - \frac{\gamma "
        r"\operatorname{span}(a_{\text{new}}) E_d[\operatorname{TV}]}{1 - \gamma} \right) / (1 - "
        r"\gamma)"
    ),
    "occupancy shift": (
        r"\lVert d^{\pi_{\text{new}}} - d^\pi \rVert_1 \le \frac{2 \gamma}{1 - \gamma} "
        r"E_d[\operatorname{TV}]"
    ),
    "termination": (
        r"J^* - J(\pi) \le \frac{\text{OPT}}{1 - \gamma} \left\lVert \frac{d^{\pi^*}}{d^{\pi, "
        r"\mu}} \right\rVert_\infty, \quad \text{OPT} = E_{d^{\pi, \mu}} \max_a A"
    ),
    "termination, restart form": (
        r"J^* - J(\pi) \le \frac{\text{OPT}}{(1 - \gamma)^2} \left\lVert \frac{d^{\pi^*}}{\mu} "
        r"\right\rVert_\infty"
    ),
    "masked CPI, discounted": (
        r"\text{gain} \ge \frac{\alpha p_w \mathbb{A}_w}{1 - \gamma} - \frac{2 \alpha^2 \gamma R "
        r"p_w}{(1 - \gamma)^3}"
    ),
    "masked CPI, discounted, returns": (
        r"\text{gain} \ge \frac{\alpha p_w \mathbb{A}_w}{1 - \gamma} - \frac{2 \alpha^2 \gamma B "
        r"p_w}{(1 - \gamma)^2}, \quad\text{all } V \text{ and } Q \text{ in a range of width } B"
    ),
    "masked CPI, discounted, pair form": (
        r"\text{gain} \ge \frac{\alpha p_w \mathbb{A}_w}{1 - \gamma} - \alpha^2 B \left( \sum_{k "
        r"< t} \gamma^t E[w_k w_t] + \frac{\gamma p_w}{(1 - \gamma)^2} \right)"
    ),
    "masked CPI, discounted, weighted": (
        r"\text{gain} \ge \frac{\alpha p_w \mathbb{A}_w}{1 - \gamma} - \frac{2 \alpha^2 \gamma "
        r"\max \lvert w \cdot a \rvert p_w}{(1 - \gamma)^2}"
    ),
    "masked CPI, discounted, span form": (
        r"\text{gain} \ge \frac{\alpha}{1 - \gamma} \left( p_w \mathbb{A}_w - "
        r"\operatorname{span}(w \cdot a) \gamma E[\gamma^T] \right), \quad T \text{ the first "
        r"switch}"
    ),
    "masked step, discounted": (
        r"\text{gain} \ge \frac{2 (1 - \gamma) p_w \mathbb{A}_w^2}{15 R} \quad\text{at}\quad "
        r"\alpha = \frac{(1 - \gamma)^2 \mathbb{A}_w}{4 R}"
    ),
    "masked step, discounted, returns": (
        r"\text{gain} \ge \frac{2 p_w \mathbb{A}_w^2}{15 B} \quad\text{at}\quad \alpha = \frac{(1 "
        r"- \gamma) \mathbb{A}_w}{4 B}"
    ),
    "masked step, discounted, pair form": (
        r"\text{gain} \ge \frac{\alpha p_w \mathbb{A}_w}{2 (1 - \gamma)} \quad\text{at}\quad "
        r"\alpha = \frac{p_w \mathbb{A}_w}{2 (1 - \gamma) B C}, \quad B C \alpha^2 \text{ the "
        r"pair form's penalty}"
    ),
    "first switch, discounted": (
        r"\text{gain} \ge \alpha E_\pi \left[ \sum_t \gamma^t w_t a_t \prod_{k < t} (1 - \alpha "
        r"w_k) \right]"
    ),
    "full oracle step, discounted": (
        r"\text{gain} \ge \tau E_\pi[\gamma^{\text{first visit to } I_\tau}] \quad\text{at}\quad "
        r"\alpha = 1, w = 1[I_\tau]"
    ),
    "CPI-RR, discounted": (
        r"\text{gain} \ge \frac{\alpha \tau p p^x}{(1 - \gamma) (1 + \gamma x)}, \quad x = "
        r"\frac{\alpha}{1 - \gamma}, \quad\text{at}\quad \alpha = \frac{(1 - \gamma)^2 \tau p}{4 "
        r"R}, w \equiv 1"
    ),
    "CPI-CARO, discounted": (
        r"\text{gain} \ge \frac{\alpha \tau p}{(1 - \gamma) (1 + \gamma x)}, \quad x = "
        r"\frac{\alpha}{1 - \gamma}, \quad\text{at}\quad \alpha = \frac{(1 - \gamma)^2 \tau}{4 "
        r"R}, w = 1[I_\tau]"
    ),
    "localizer, discounted": (
        r"\text{gain} \ge \frac{\alpha \tau p t q^x}{(1 - \gamma) (1 + \gamma x)}, \quad x = "
        r"\frac{\alpha}{1 - \gamma} \le 1, \quad\text{recall } t, \text{precision } q"
    ),
    "visit probability, discounted": (
        r"E_\pi[\gamma^{\text{first visit to } I_\tau}] \le \frac{p_\pi(\tau)}{1 - \gamma}"
    ),
    "performance difference, finite": (
        r"J(\pi_{\text{new}}) - J(\pi) = \sum_h E_{d_h^{\pi_{\text{new}}}}[a_{\text{new}}]"
    ),
    "masked CPI": (
        r"\text{gain} \ge \alpha H p_w \mathbb{A}_w - \tfrac{1}{2} \alpha^2 H^2 (H - 1) r p_w"
    ),
    "masked CPI, step by step": (
        r"\text{gain} \ge \alpha H p_w \mathbb{A}_w - \tfrac{1}{2} \alpha^2 r \sum_t E[w_t] (H - "
        r"t) (H + t - 1)"
    ),
    "random resets": (
        r"\text{gain}(\alpha, w \equiv 1) \ge \alpha H \mathbb{A} - \frac{\alpha^2 r (H - 1) H (H "
        r"+ 1)}{3}"
    ),
    "masked CPI, ε form": (
        r"\text{gain} \ge \alpha H p_w \mathbb{A}_w - \alpha^2 H (H - 1) p_w \max_{w > 0} \lvert "
        r"a \rvert"
    ),
    "masked CPI, weighted form": (
        r"\text{gain} \ge \alpha H p_w \mathbb{A}_w - 2 \alpha^2 \max \lvert w \cdot a \rvert "
        r"\sum_t E[w_t] (H - 1 - t)"
    ),
    "masked CPI, bounded returns": (
        r"\text{gain} \ge \alpha H p_w \mathbb{A}_w - \alpha^2 H (H - 1) p_w R, \quad\text{all } "
        r"V \text{ and } Q \text{ in a range of width } R"
    ),
    "masked CPI, span form": (
        r"\text{gain} \ge \alpha \sum_h \left( E_{d_h}[w a] - \operatorname{span}(w_h a_h) "
        r"\Pr(\text{switched before } h) \right)"
    ),
    "masked step": (
        r"\text{gain} \ge \left( 1 + \frac{1}{H} \right) \frac{p_w \mathbb{A}_w^2}{2 H r} "
        r"\quad\text{at}\quad \alpha = \frac{\mathbb{A}_w}{H^2 r}"
    ),
    "masked step, step by step": (
        r"\text{gain} \ge \frac{(H p_w \mathbb{A}_w)^2}{2 r D} \quad\text{at}\quad \alpha = "
        r"\frac{H p_w \mathbb{A}_w}{r D}, \quad D = \sum_t E[w_t] (H - t) (H + t - 1)"
    ),
    "masked step, bounded returns": (
        r"\text{gain} \ge \left( 1 + \frac{1}{H} \right) \frac{p_w \mathbb{A}_w^2}{4 R} "
        r"\quad\text{at}\quad \alpha = \frac{\mathbb{A}_w}{2 H R}"
    ),
    "first switch": (
        r"\text{gain} \ge \alpha E_\pi \left[ \sum_h w_h a_h \prod_{t < h} (1 - \alpha w_t) "
        r"\right]"
    ),
    "coverage, finite": (
        r"J^* - J(\pi) \le \max_h \left\lVert \frac{d^*_h}{\mu_h} \right\rVert_\infty \sum_h "
        r"E_{\mu_h} \max_a A_h"
    ),
    "PSDP": (
        r"J^* - J(\pi) \le \sum_t \left\lVert \frac{d^*_t}{\mu_t} \right\rVert_\infty "
        r"E_{\mu_t}[\max_a Q_t - V_t]"
    ),
    "full oracle step": (
        r"\text{gain} \ge \tau \Pr_\pi(\text{visit } I_\tau) \quad\text{at}\quad \alpha = 1, w = "
        r"1[I_\tau]"
    ),
    "CPI-RR": (
        r"\text{gain} \ge \frac{\tau^2 p^2}{2 H r} \quad\text{at}\quad \alpha = \frac{\tau p}{H^2 "
        r"r}, w \equiv 1"
    ),
    "CPI-CARO": (
        r"\text{gain} \ge \frac{\tau^2 p}{2 H r} \quad\text{at}\quad \alpha = \frac{\tau}{H^2 r}, "
        r"w = 1[I_\tau]"
    ),
    "localizer": (
        r"\text{gain} \ge \frac{p t q \tau^2}{2 H r} \quad\text{at}\quad \alpha = \frac{q "
        r"\tau}{H^2 r}, \quad\text{recall } t, \text{precision } q"
    ),
    "localizer, nowhere worse": (
        r"\text{gain} \ge \frac{7 p t q \tau^2}{8 H r} \quad\text{at}\quad \alpha = \frac{q "
        r"\tau}{H^2 r}; \quad w \equiv 1: t, q = 1, p; \quad w = 1[I_\tau]: 1, 1"
    ),
    "visit probability": r"\Pr_\pi(\text{visit } I_\tau) \le H p_\pi(\tau)",
}

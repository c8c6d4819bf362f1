"""From your own MDP to a certified improvement; run it whole, or cell by cell in an editor."""

# %% Your MDP: a robot walks n cells in line; a wrong action ends the walk without a reward.
import matplotlib.pyplot as plt
import numpy as np

import cpi
import envs

n, actions = 5, 3
transitions = np.zeros((n + 2, actions, n + 2))  # state n: arrived, state n + 1: lost
transitions[:, :, n + 1] = 1.0
transitions[n, :] = np.eye(n + 2)[n]
rewards = np.zeros((n + 2, actions))
for cell in range(n):
    transitions[cell, cell % actions] = np.eye(n + 2)[cell + 1]  # the right action
rewards[n - 1, (n - 1) % actions] = 1.0
mdp = envs.TabularMDP(transitions, rewards, start=np.eye(n + 2)[0], horizon=n, name="walk")

# %% Where can the policy be improved? It is right with probability 0.8, in the middle with 0.4.
policy = np.full((n + 2, actions), 0.1)
policy[np.arange(n + 2), np.arange(n + 2) % actions] = 0.8
policy[n // 2] = [0.3, 0.3, 0.4]
evaluation, tau = cpi.evaluate(mdp, policy), 0.2
print(f"p_π({tau}) = {cpi.coverage(evaluation, cpi.improvable(evaluation, tau)):.3f}")

# %% A certificate from samples alone; it is wrong with probability 0.05 at most.
print(cpi.certify(mdp, policy, cpi.oracle_resets(tau), resets=20_000, returns=(0, 1)))

# %% CPI with random and with oracle resets, exact; it ends where no advantage is above its τ.
for name, resets in {"random": cpi.random_resets, "oracle": cpi.oracle_resets(tau / 2)}.items():
    run = cpi.run_cpi(mdp, policy, resets=resets, iterations=30)
    certified = sum(row.certificate for row in run.iterations)
    print(f"{name} resets: J = {run.J:.3f}, certified gain {certified:.3f}; {run.stopped}")
    plt.plot([*(row.J for row in run.iterations), run.J], label=f"{name} resets")

# %% The plot; `python -m cpi.run --mdp mine.npz --output out` draws one without a program.
plt.gca().set(xlabel="iterations", ylabel="J(π)")
plt.legend()
plt.savefig("own_mdp.png")

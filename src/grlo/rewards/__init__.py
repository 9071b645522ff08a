"""Rewards by name; each is the settings dataclass that builds it."""

REWARDS: dict[str, str] = {
    "reward_model": "grlo.rewards.reward_model:RewardModelSettings",
    "shuffled": "grlo.rewards.shuffled:ShuffledRewardSettings",
}

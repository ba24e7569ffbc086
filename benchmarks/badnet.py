"""The architecture of the real BadNet, with the parameter names of its weights file."""

from torch import nn


class BadNet(nn.Module):
    """[n, 1, 28, 28] in −1..1 → [n, 10]"""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.AvgPool2d(2))
        self.conv2 = nn.Sequential(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.AvgPool2d(2))
        self.fc1 = nn.Sequential(nn.Linear(512, 512), nn.ReLU())
        self.fc2 = nn.Sequential(nn.Linear(512, 10))

    def forward(self, x):
        return self.fc2(self.fc1(self.conv2(self.conv1(x)).flatten(1)))

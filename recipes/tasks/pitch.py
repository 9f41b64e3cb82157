# pitch.py
# Audio: the pitch of 1,024 samples at 16 kHz, in 360 steps of 20 cents. The network is CREPE in its smallest
# size, whose public weights fit (Kim et al., "CREPE: a convolutional representation for pitch estimation",
# ICASSP 2018):
#   sslcli evaluate tiny.pth --arch pitch.py:Crepe --data pitch.py:make_data --task pitch.py:make_task
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import sslcli

RATE_HZ, SAMPLES = 16000, 1024
BINS, STEP_CENTS, LOWEST_CENTS = 360, 20.0, 1997.3794  # cents above 10 Hz of the first bin
WIDTHS = (1, 128, 16, 16, 16, 32, 64)


class Crepe(nn.Module):
    def __init__(self):
        super().__init__()
        for number in range(1, 7):
            length = 512 if number == 1 else 64
            stride = (4, 1) if number == 1 else 1
            inputs, outputs = WIDTHS[number - 1 : number + 1]
            setattr(self, f"conv{number}", nn.Conv2d(inputs, outputs, (length, 1), stride=stride))
            setattr(self, f"conv{number}_BN", nn.BatchNorm2d(outputs, eps=0.001))
        self.classifier = nn.Linear(256, BINS)

    def forward(self, audio):
        x = audio[:, None, :, None]
        for number in range(1, 7):
            conv, norm = getattr(self, f"conv{number}"), getattr(self, f"conv{number}_BN")
            x = F.pad(x, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
            x = F.max_pool2d(norm(F.relu(conv(x))), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).flatten(1))  # logits; the paper adds a sigmoid


def make_data(seed=0, counts=(4000, 500, 1000)):
    """Tones of eight harmonics between 60 and 900 Hz, with some noise; the target is the pitch in cents."""
    generator = torch.Generator().manual_seed(seed)

    def split(count):
        low, high = (1200 * math.log2(hertz / 10) for hertz in (60, 900))
        cents = low + (high - low) * torch.rand(count, 1, 1, generator=generator)
        hertz = 10 * 2 ** (cents / 1200)
        number = torch.arange(1, 9).view(1, 8, 1)
        loud = torch.rand(count, 8, 1, generator=generator) / number * (hertz * number < RATE_HZ / 2)
        phase = 2 * math.pi * torch.rand(count, 8, 1, generator=generator)
        seconds = torch.arange(SAMPLES) / RATE_HZ
        audio = (loud * torch.sin(2 * math.pi * hertz * number * seconds + phase)).sum(1)
        audio = audio + 0.02 * torch.randn(count, SAMPLES, generator=generator)
        audio = (audio - audio.mean(1, keepdim=True)) / audio.std(1, keepdim=True)
        return TensorDataset(audio, cents.view(count))

    return [split(count) for count in counts]


def few(seed=0):
    """A data set of the same kind for a try."""
    return make_data(seed, (64, 32, 100))


def make_task():
    centres = LOWEST_CENTS + STEP_CENTS * torch.arange(BINS)

    def loss(outputs, targets):
        wanted = torch.exp(-((centres.to(outputs) - targets[:, None]) ** 2) / (2 * 25.0**2))
        return F.binary_cross_entropy_with_logits(outputs, wanted)

    def within_half_a_semitone(outputs, targets):
        near = (outputs.argmax(1)[:, None] + torch.arange(-4, 5, device=outputs.device)).clamp(0, BINS - 1)
        weights = torch.sigmoid(outputs.gather(1, near))
        cents = (weights * centres.to(outputs)[near]).sum(1) / weights.sum(1)
        return ((cents - targets).abs() <= 50).float()

    return sslcli.Task("pitch", loss, within_half_a_semitone, metric_name="pitch accuracy")

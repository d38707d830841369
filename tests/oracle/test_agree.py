"""agree.py: a tick is allowed, more is not."""
import argparse, contextlib, io, unittest

import agree


def found(differences, **bounds):
    """What it says of echoes whose two samples differ so, in us."""
    args = argparse.Namespace(tick=1000.0, hooks=20.0, beyond=0.001, min_samples=10)
    vars(args).update(bounds)
    ts = {n: (5_000_000, n) for n in range(len(differences))}
    seq = {n: (5_000_000 + int(1000 * d), n + (abs(d) > 100)) for n, d in enumerate(differences)}
    with contextlib.redirect_stdout(io.StringIO()):
        return agree.agree(ts, seq, args)


class Agree(unittest.TestCase):
    def test_within_a_tick(self):
        self.assertEqual(found([-5, 0, 5, 990, -1010] * 10), [])

    def test_beyond_a_tick(self):
        self.assertIn("1 of 100 differ", found([0] * 99 + [1100])[0])
        self.assertEqual(found([0] * 99 + [1100], beyond=0.01), [])

    def test_a_bias_on_the_same_packets(self):
        self.assertIn("longer by +30", found([30] * 100)[0])

    def test_too_few(self):
        self.assertIn("less than 10", found([0] * 9)[0])


if __name__ == "__main__":
    unittest.main()

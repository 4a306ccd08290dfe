"""A handler is a function: call it. `python3 -m unittest`"""

import unittest
from types import SimpleNamespace

import counter
from shim import Refused


class Counting(unittest.TestCase):
    def test_each_call_adds_to_the_state(self):
        ctx = SimpleNamespace(state=None)
        self.assertEqual(counter.add(ctx, 2), 2)
        self.assertEqual(counter.add(ctx, None), 3)
        self.assertEqual(ctx.state, {"count": 3})

    def test_half_is_refused_and_changes_nothing(self):
        ctx = SimpleNamespace(state={"count": 3})
        with self.assertRaises(Refused):
            counter.add(ctx, 0.5)
        self.assertEqual(ctx.state, {"count": 3})


if __name__ == "__main__":
    unittest.main()

"""Attacks: functions of what an adversary saw → what it recovers. Nothing that trains imports them.

A gradient that a client shares can tell which rows it was computed from. The attacks here are those of the literature,
each in a file of its own; `protocol` and `command` make them under the defences of ``fedmpi attack`` and count how many
succeed.

=====================  ==========================================================================================
`linear`               the input of a fully connected layer in closed form, and what noise does to it (Theorem 2.2)
`labels`               the label from the sign of the last layer's gradient (iDLG)
`deep_leakage`         DLG: images and soft labels whose gradient is the one that was shared, by L-BFGS
`spear`                a whole batch, from the gradient of a fully connected layer with ReLU behind it (SPEAR)
`features`             what `linear` and `spear` tell of a layer's inputs behind convolutions
`inverting`            inverting gradients: features or cosine distance, and total variation, by signed Adam
`secret_head`          against SPN: DLG with the gradient of the features as one more unknown
`imprint`              trap weights of a malicious server: single rows from a sum over many clients (imprint)
`membership`           LiRA: was a row trained on? With a few reference models, and intervals of what it finds
`inference`            membership and tracing distances (Algorithms 5, 6), loss-threshold membership and its ROC
`metrics`              rMSE, PSNR, SSIM, ‖B_I‖/‖E_B‖, PPC and CAP
=====================  ==========================================================================================

A gradient is a tuple of tensors in the order of ``model.parameters()``.
"""
